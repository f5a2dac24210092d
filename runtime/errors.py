"""Every failure that a user can cause, as a type of its own.

The message of each is one line: what was wrong, where, and what to do about it. The command lines print it after
``error:`` and exit with status 2.
"""


def require(fits: object, fault: str) -> None:
    """Raises ValueError, which says the fault, unless something fits."""
    if not fits:
        raise ValueError(fault)


class UgicError(Exception):
    """Base of all user-caused failures."""


class ImageError(UgicError):
    """An input image cannot be read or has an unusable shape."""


class NotUgicError(UgicError):
    """The data does not begin with the magic of a .ugic file."""


class VersionError(UgicError):
    """A bitstream or bundle of a format version that this release does not read."""


class TruncatedError(UgicError):
    """A bitstream ends before its last field."""


class CorruptFileError(UgicError):
    """A bitstream whose bytes contradict each other or its checksums."""


class CodecMismatchError(UgicError):
    """No bundle with the codec id that a bitstream names."""


class DesynchronisedError(UgicError):
    """An intact file decoded to other symbols than were encoded: the entropy path of this machine is not exact."""


class BundleError(UgicError):
    """A bundle is missing, incomplete, changed since export, or inconsistent."""


class PartError(BundleError):
    """A bundle holds only the half (encoder or decoder) that was not asked for."""


class ConditionError(UgicError):
    """An unknown condition, or a condition asked of a codec that has none."""


class QualityError(UgicError):
    """A quality outside the range of the codec."""


class BackendError(UgicError):
    """A backend, provider or option was asked for and is not usable here."""


class AnswerError(BundleError, BackendError):
    """A graph answers with arrays of another number, type or shape than the runtime reads."""


class OutputError(UgicError):
    """An output file cannot be written."""


class DiskError(OutputError):
    """No output at all can be written there: the disk is full or read-only."""


class UsageError(UgicError):
    """Command-line arguments that do not make sense together."""
