"""Freed memory that stays with the process, for the next image."""

from __future__ import annotations

import ctypes
import sys

KEPT = 2**27  # bytes of a block
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed() -> None:
    """Tells glibc to keep freed blocks of up to 128 MiB for what is asked for next; elsewhere does nothing.

    Else arrays of 32 MiB and more, as images of ten megapixels have, are taken from the system each time, page by page:
    a tenth of the time of a large image. For processes of our own, which do nothing else; what a library is loaded into
    decides this for itself.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_THRESHOLD, KEPT)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
