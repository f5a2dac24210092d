"""The fields that version 2 of the container adds: the guard of a staged codec, and sections beside the symbols."""

from __future__ import annotations

from dataclasses import dataclass

from ugicm.runtime.errors import VersionError
from ugicm.runtime.fields import Fields

MIN_BAND_BITS, MAX_BAND_BITS = 8, 20
MIN_BLOCK, MAX_BLOCK = 32, 1 << 20  # positions
ALPHA, ICC_PROFILE, EXIF, XMP = 1, 2, 4, 6  # types of sections: odd ones change the picture
MAX_SECTIONS = 64
MAX_METADATA = 1 << 24  # bytes of all sections of even types together
STAGED, SECTIONS = 1, 2  # flags


@dataclass(frozen=True)
class Guard:
    """How the rows of a staged codec are rounded (`runtime/guard.py`).

    band_bits: 8 to 20; every decoder's scale indexes must lie within 2**-band_bits of the encoder's.
    block: positions that share one shift, 32 to 2**20.
    """

    band_bits: int
    block: int


@dataclass(frozen=True)
class Section:
    """A block of bytes that a file carries beside its symbols.

    type: 1 to 2**32 - 1; a decoder refuses an odd one that it does not know and skips an even one.
    data: as the type defines it.
    """

    type: int
    data: bytes


def read_additions(fields: Fields) -> tuple[Guard | None, tuple[Section, ...]]:
    """The fields that version 2 adds, not yet checked against each other."""
    name, flags = fields.name, fields.varint()
    if flags & ~(STAGED | SECTIONS):
        raise VersionError(f"{name} has flags {flags:#x} that this release does not know; install one that reads them")
    guard = Guard(fields.take(1)[0], fields.varint()) if flags & STAGED else None
    count = fields.varint() if flags & SECTIONS else 0
    if not flags or (flags & SECTIONS and not 1 <= count <= MAX_SECTIONS):
        fields.corrupt(
            f"it has flags {flags} and {count} sections; version 2 has a guard or 1 to {MAX_SECTIONS} sections"
        )
    sections: list[Section] = []
    for _ in range(count):
        kind, size = fields.varint(), fields.varint()
        if kind % 2 and kind != ALPHA:
            raise VersionError(
                f"{name} has a section of type {kind} that changes the picture and that this release does not know; "
                "install one that does"
            )
        sections.append(Section(kind, fields.take(size)))
    return guard, tuple(sections)


def misfit(guard: Guard | None, sections: tuple[Section, ...], substreams: int) -> str:
    """The fault in the fields that version 2 adds, or an empty string."""
    if guard and not MIN_BAND_BITS <= guard.band_bits <= MAX_BAND_BITS:
        return f"the band 2**-{guard.band_bits} is outside 2**-{MIN_BAND_BITS} to 2**-{MAX_BAND_BITS}"
    if guard and not MIN_BLOCK <= guard.block <= MAX_BLOCK:
        return f"blocks of {guard.block} positions are outside {MIN_BLOCK} to {MAX_BLOCK}"
    if guard and substreams != 1:
        return f"a staged file has one y substream, not {substreams}"
    types = [section.type for section in sections]
    if len(types) > MAX_SECTIONS:
        return f"it has {len(types)} sections, at most {MAX_SECTIONS} are allowed"
    if any(a >= b for a, b in zip([0, *types], types, strict=False)):
        return f"sections of types {types} are out of order"
    size = sum(len(section.data) for section in sections if section.type % 2 == 0)
    if size > MAX_METADATA:
        return f"its metadata has {size} bytes, at most {MAX_METADATA} are allowed"
    return ""
