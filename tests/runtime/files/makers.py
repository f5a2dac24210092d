"""Picture files written by hand, to hold what Pillow reads and does not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    samples: np.ndarray,
    *chunks: bytes,
    palette: np.ndarray | None = None,
    transparent: bytes = b"",
    bits: int | None = None,
) -> bytes:
    """A PNG file of uint8 or uint16 samples: (H, W) grey or indexes, (H, W, 2) grey and alpha, (H, W, 3), (H, W, 4).

    bits: 1, 2 or 4 for packed grey samples, each below 2^bits.
    """
    if samples.ndim == 2:
        samples = samples[..., None]
    height, width, channels = samples.shape
    depth = bits or 8 * samples.dtype.itemsize
    colour = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    if bits:
        planes = np.unpackbits(samples[..., 0, None], axis=2)[..., 8 - bits :].reshape(height, -1)
        rows = [bytes(1) + np.packbits(row).tobytes() for row in planes]
    else:
        rows = [bytes(1) + row.astype(samples.dtype.newbyteorder(">")).tobytes() for row in samples]
    more = [*chunks]
    if palette is not None:
        more.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
    if transparent:
        more.append(chunk(b"tRNS", transparent))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    idat = zlib.compress(b"".join(rows), 1)
    body = chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100000)))


def tiff(
    samples: np.ndarray,
    order: str = "<",
    photometric: int | None = None,
    extra: int | None = None,
    more: dict[int, tuple[int, bytes]] | None = None,
    bits: int | None = None,
) -> bytes:
    """An uncompressed TIFF file of samples of any type, (H, W) or (H, W, C).

    extra: what a last channel means, 1 premultiplied and 2 plain alpha; more: further tags, each a type and its bytes.
    """
    if samples.ndim == 2:
        samples = samples[..., None]
    height, width, channels = samples.shape
    depth = bits or 8 * samples.dtype.itemsize
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[samples.dtype.kind]
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()

    def shorts(*values: int) -> tuple[int, bytes]:
        return 3, struct.pack(f"{order}{len(values)}H", *values)

    tags = {
        256: shorts(width),
        257: shorts(height),
        258: shorts(*[depth] * channels),
        259: shorts(1),
        262: shorts((2 if channels > 2 else 1) if photometric is None else photometric),
        273: (4, b""),
        277: shorts(channels),
        278: shorts(height),
        279: (4, struct.pack(f"{order}I", len(pixels))),
        339: shorts(*[kind] * channels),
        **({} if extra is None else {338: shorts(extra)}),
        **(more or {}),
    }
    widths = {1: 1, 3: 2, 4: 4, 7: 1}
    at = 8 + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    where = at + sum(len(v) + len(v) % 2 for tag, (_, v) in tags.items() if len(v) > 4)
    tags[273] = (4, struct.pack(f"{order}I", where))
    for tag, (form, value) in sorted(tags.items()):
        count = len(value) // widths[form]
        if len(value) <= 4:
            entries += struct.pack(f"{order}HHI", tag, form, count) + value.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}HHII", tag, form, count, at + len(values))
            values += value + bytes(len(value) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values + pixels
