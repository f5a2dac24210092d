"""Where bundles are found: the shipped ones, those of a folder, and those of UGICM_BUNDLES."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ugicm.runtime.bundle import SHIPPED
from ugicm.runtime.errors import BundleError, CodecMismatchError, VersionError
from ugicm.runtime.manifest import MANIFEST, read_manifest

VARIABLE = "UGICM_BUNDLES"
FAULTS = 3  # that one line of error names


def _bundles_of(folder: Path) -> Iterator[Path]:
    """The folder itself if it is a bundle, else the bundles directly in it."""
    if os.path.isfile(folder / MANIFEST):
        yield folder
    elif os.path.isdir(folder):
        yield from sorted(p.parent for p in folder.glob(f"*/{MANIFEST}"))


def _named() -> list[Path]:
    return [Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]


def known_bundles(extra: Iterable[Path] = ()) -> Iterator[Path]:
    """Folders of all bundles at hand: `extra` first, then UGICM_BUNDLES, then the shipped ones."""
    for folder in (*extra, *_named(), SHIPPED):
        yield from _bundles_of(folder)


def check_named(folder: Path) -> None:
    """Raises BundleError or VersionError unless a folder is a bundle with a sound manifest, or holds bundles."""
    if next(_bundles_of(folder), folder) == folder:
        read_manifest(folder)


def find_bundle(codec_id: bytes, extra: Iterable[Path] = ()) -> Path:
    """The first bundle with a codec id that can decode.

    Raises:
        CodecMismatchError: there is none; it says what is wrong with bundles that could not be read.
    """
    wanted = codec_id.hex()
    encoder_only = None
    unread = []
    for path in known_bundles(extra):
        try:
            manifest = read_manifest(path)
        except (BundleError, VersionError) as error:
            unread.append(str(error))
            continue
        if manifest.codec_id == wanted:
            if manifest.part != "encoder":
                return path
            encoder_only = path
    if encoder_only is not None:
        return encoder_only  # its refusal names the missing half
    for folder in _named():
        if next(_bundles_of(folder), None) is None:
            unread.append(f"{folder}, which is named there, is no folder that can be read or holds no bundle")
    raise CodecMismatchError(
        f"no bundle with codec id {wanted} is known; name its folder with --bundle or in {VARIABLE}"
        + "".join(f"; not read: {reason}" for reason in unread[:FAULTS])
        + (f"; and {len(unread) - FAULTS} more" if len(unread) > FAULTS else "")
    )
