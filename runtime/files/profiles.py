"""ICC profiles of matrix and curves: written for colours that a file names in another way, and read at 16 bits.

ICC.1:2022 is the specification; sections are named where a layout comes from.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Chromaticities = tuple[float, float, float, float, float, float, float, float]  # x, y of white, red, green, blue

_D65 = (0.3127, 0.3290)
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
BT709: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
BT2020: Chromaticities = (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
P3: Chromaticities = (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE: Chromaticities = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
PRIMARIES: dict[int, Chromaticities] = {  # ITU-T H.273, table 2
    1: BT709,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: BT2020,
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: P3,
}
# Parameters g, a, b, c, d of ICC's curve of type 3: (aX + b)^g from d on, cX below.
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
CURVES: dict[int, tuple[float, ...]] = {  # ITU-T H.273, table 3
    1: BT709_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: BT709_CURVE,
    8: (1.0,),
    13: SRGB_CURVE,
    14: BT709_CURVE,
    15: BT709_CURVE,
}


def to_xyz(c: Chromaticities) -> np.ndarray:
    """(3, 3) matrix from linear RGB of these primaries to XYZ, adapted to D50 (Bradford).

    Raises:
        ValueError: primaries or white of no colour space.
    """
    white, *primaries = (np.array([x, y, 1 - x - y]) for x, y in zip(c[::2], c[1::2], strict=True))
    basis = np.stack(primaries, axis=1)
    if min(c[1::2]) <= 0 or max(c) > 1 or abs(np.linalg.det(basis)) < 1e-4:
        raise ValueError("these primaries span no colours")
    white = white / white[1]
    matrix = basis * np.linalg.solve(basis, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix


def make_profile(name: str, chromaticities: Chromaticities, curve: Sequence[float]) -> bytes:
    """An ICC profile (version 4, display, RGB) of primaries and one curve: a gamma, or the five numbers of type 3.

    Raises:
        ValueError: see `to_xyz`.
    """
    matrix = to_xyz(chromaticities)

    def fixed(values: Sequence[float] | np.ndarray) -> bytes:
        return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)

    def words(text: str) -> bytes:
        coded = text.encode("utf-16-be")
        return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(coded), 28) + coded

    kind = 0 if len(curve) == 1 else 3
    tags = {
        b"desc": words(name),
        b"cprt": words("No copyright"),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(_D50),
        **{key: b"XYZ \0\0\0\0" + fixed(matrix[:, i]) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        b"rTRC": b"para" + struct.pack(">IHH", 0, kind, 0) + fixed(curve),
    }
    table, body, at = [], b"", 128 + 4 + 12 * (len(tags) + 2)
    for key, data in tags.items():
        entry = struct.pack(">II", at + len(body), len(data))
        table += [k + entry for k in ((b"rTRC", b"gTRC", b"bTRC") if key == b"rTRC" else (key,))]
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x04400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(table)) + b"".join(table) + body


def colour_space(icc: bytes) -> str:
    """The four letters of the data colour space of a profile, without blanks; empty where this is no profile."""
    if len(icc) < 132 or icc[36:40] != b"acsp" or icc[12:16] not in (b"mntr", b"scnr", b"prtr", b"spac"):
        return ""
    return icc[16:20].decode("latin-1").strip()


@dataclass(frozen=True)
class MatrixProfile:
    """matrix: (3, 3) linear RGB to XYZ at D50, or None for grey; curves: float32 (65536,) each, of every channel."""

    matrix: np.ndarray | None
    curves: tuple[np.ndarray, ...]


def read_profile(icc: bytes) -> MatrixProfile | None:
    """The matrix and curves of a profile; None where it has tables (which take precedence) or neither."""
    try:
        count = struct.unpack_from(">I", icc, 128)[0]
        tags = {}
        for i in range(min(count, 128)):
            key, at, size = struct.unpack_from(">4sII", icc, 132 + 12 * i)
            tags[key] = icc[at : at + size]
        if any(key in tags for key in (b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1")) or icc[20:24] != b"XYZ ":
            return None
        if colour_space(icc) == "GRAY":
            return MatrixProfile(None, (_curve(tags[b"kTRC"]),))
        columns = [np.array(struct.unpack_from(">3i", tags[key], 8)) / 65536 for key in (b"rXYZ", b"gXYZ", b"bXYZ")]
        return MatrixProfile(np.stack(columns, axis=1), tuple(_curve(tags[k]) for k in (b"rTRC", b"gTRC", b"bTRC")))
    except (struct.error, KeyError, ValueError):
        return None


def _curve(tag: bytes) -> np.ndarray:
    """A tag of type `curv` (ICC.1:2022, 10.6) or `para` (10.18) at 65,536 places. Raises ValueError, struct.error."""
    x = np.linspace(0, 1, 65536)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return x.astype(np.float32)
        if count == 1:
            return (x ** (struct.unpack_from(">H", tag, 12)[0] / 256)).astype(np.float32)
        if len(tag) < 12 + 2 * count:
            raise ValueError("a curve is cut short")
        points = np.frombuffer(tag, ">u2", count, 12) / 65535
        return np.interp(x, np.linspace(0, 1, count), points).astype(np.float32)
    if tag[:4] != b"para":
        raise ValueError("a curve of an unknown type")
    (kind,) = struct.unpack_from(">H", tag, 8)
    numbers = struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind] if kind < 5 else 99}i", tag, 12)
    g, a, b, c, d, e, f = [n / 65536 for n in numbers] + [0.0] * (7 - len(numbers))
    if kind == 0:
        a, b, d = 1.0, 0.0, 0.0
    elif kind in (1, 2):
        if not a:
            raise ValueError("a curve without a slope")
        e = f = c if kind == 2 else 0.0
        c, d = 0.0, -b / a
    y = np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
    if not np.isfinite(y).all():
        raise ValueError("a curve without bounds")
    return np.clip(y, 0, 1).astype(np.float32)
