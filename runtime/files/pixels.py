"""Samples of a picture as arrays: every mode of Pillow becomes grey, RGB or CMYK of 8 or 16 bits, and an opacity.

Transparency that names a colour is compared with pixels as they stand in the file, before 16 bits become 8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ugicm.runtime.errors import ImageError

_KINDS = {"1": "black and white", "L": "grey", "LA": "grey", "La": "grey", "P": "palette", "PA": "palette"}
_PLAIN = ("RGB", "RGBA", "RGBa", "RGBX")
_OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}


@dataclass(frozen=True)
class Samples:
    """The samples of a picture.

    colour: uint8 or uint16; (H, W) is grey, (H, W, 3) RGB, (H, W, 4) CMYK.
    alpha: uint8 (H, W), 255 is opaque; None where every pixel is.
    kind: words for anything but RGB, else an empty string.
    deep: whether the file has more than 8 bits a channel.
    """

    colour: np.ndarray
    alpha: np.ndarray | None
    kind: str
    deep: bool


def raw_mode(image: Image.Image) -> str:
    """How a file that is not loaded yet stores its pixels, in Pillow's words: `RGB;16B`; empty if it has none."""
    for tile in getattr(image, "tile", ()):
        if tile[0].startswith("ppm") and isinstance(tile[3], tuple) and tile[3][-1] > 255:
            return "ppm;16"
        return str(tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3])
    return ""


def samples(image: Image.Image, raw: str = "", reopen: Callable[[], Image.Image] | None = None) -> Samples:
    """The samples of a loaded image.

    Args:
        image: any image of Pillow's.
        raw: `raw_mode` of its file before it was loaded.
        reopen: opens the file once more, not loaded: Pillow reads colours of 16 bits one byte at a time.

    Raises:
        ImageError: pixels without an agreed black and white, or of a mode that is not known here.
    """
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _deep_grey(image, raw)
    mode, kind = image.mode, _KINDS.get(image.mode, "" if image.mode in _PLAIN else image.mode)
    deep = ";16" in raw
    if mode in ("1", "L"):
        colour = np.asarray(image.convert("L"))
        return Samples(colour, _key_mask(image, colour, _grey_key(image, raw)), kind, deep)
    if mode == "CMYK":
        return Samples(np.array(image), None, kind, deep)
    if mode in ("LA", "La"):
        both = np.asarray(image if mode == "LA" else image.convert("LA"))
        return Samples(both[..., 0], _effective(both[..., 1]), kind, deep)
    try:
        if mode == "RGB":
            colour, low = np.asarray(image), _low_bytes(image, raw, reopen)
            if low is not None:
                colour = colour.astype(np.uint16) << 8 | low[..., :3]
            return Samples(colour, _key_mask(image, colour, image.info.get("transparency")), kind, deep)
        if mode in ("RGBA", "RGBa", "PA") or image.has_transparency_data:
            whole = np.asarray(image if mode == "RGBA" else image.convert("RGBA"))
            colour, alpha = whole[..., :3], _effective(whole[..., 3])
            if raw.startswith("LA;16"):
                four = _unpacked(image, "RGBA", reopen)  # upper and lower byte of grey, then of opacity
                grey = colour[..., 0] if four is None else four[..., 0].astype(np.uint16) << 8 | four[..., 1]
                return Samples(grey, alpha, "grey", True)
            low = _low_bytes(image, raw, reopen) if raw.startswith("RGBA;16") else None
            if low is not None:
                colour = colour.astype(np.uint16) << 8 | low[..., :3]
            return Samples(np.ascontiguousarray(colour), alpha, kind, deep)
        return Samples(np.asarray(image.convert("RGB")), None, kind, deep)
    except ValueError as error:
        raise ImageError(f"{mode} pixels cannot be converted to RGB ({error}); save it as RGB") from error


def reduced(colour: np.ndarray) -> np.ndarray:
    """uint8 of uint16 samples, 65535 being 255; uint8 ones as they are."""
    if colour.dtype == np.uint8:
        return colour
    out = np.empty(colour.shape, np.uint8)
    for row in range(0, len(colour), 64):
        out[row : row + 64] = (colour[row : row + 64].astype(np.uint32) * 255 + 32767) // 65535
    return out


def _deep_grey(image: Image.Image, raw: str) -> Samples:
    if image.mode == "I" and not (raw.startswith("ppm") or raw.startswith("I;16") and not raw.endswith("S")):
        raise ImageError("32-bit pixels have no agreed white; save it with 8 or 16 bits")
    values: np.ndarray = np.asarray(image).astype(np.uint16)
    if raw.startswith("I;12"):
        values = values << 4 | values >> 8
    return Samples(values, _key_mask(image, values, image.info.get("transparency")), "grey", True)


def _grey_key(image: Image.Image, raw: str) -> Any:
    """The transparent grey in the steps of the pixels: a file of 1, 2 or 4 bits states it in its own."""
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return key
    if image.mode == "1":
        return 255 if key else 0
    return key * {"L;2": 85, "L;4": 17}.get(raw, 1)


def _key_mask(image: Image.Image, colour: np.ndarray, key: Any) -> np.ndarray | None:
    """uint8 (H, W): 0 where the pixels are the one transparent colour `key`; None where no pixel is."""
    channels = 1 if colour.ndim == 2 else colour.shape[2]
    keys = key if isinstance(key, tuple | list) else (key,)
    if len(keys) != channels or not all(isinstance(k, int) for k in keys):
        return None
    shown = np.zeros(colour.shape[:2], bool)
    for channel, k in enumerate(keys):
        shown |= (colour if channels == 1 else colour[..., channel]) != (k & 0xFF if colour.dtype == np.uint8 else k)
    return _effective(np.where(shown, np.uint8(255), np.uint8(0)))


def _effective(alpha: np.ndarray) -> np.ndarray | None:
    return None if alpha.min(initial=255) == 255 else np.ascontiguousarray(alpha)


def _low_bytes(image: Image.Image, raw: str, reopen: Callable[[], Image.Image] | None) -> np.ndarray | None:
    """The less significant bytes of a file of 16-bit colours, as Pillow unpacks those of the other byte order."""
    ending = raw[raw.find(";16") :]
    return _unpacked(image, raw.replace(ending, _OTHER_BYTE[ending]), reopen) if ending in _OTHER_BYTE else None


def _unpacked(image: Image.Image, raw: str, reopen: Callable[[], Image.Image] | None) -> np.ndarray | None:
    """The pixels of the file of an image, unpacked as another raw mode of the same length; None where that fails."""
    if reopen is None:
        return None
    try:
        twin = reopen()
        tiles: list[Any] = []
        for tile in twin.tile:  # type: ignore[attr-defined]
            arguments = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
            tiles.append(type(tile)(*tile[:3], arguments) if hasattr(tile, "_fields") else (*tile[:3], arguments))
        twin.tile = tiles  # type: ignore[attr-defined]
        return np.asarray(twin) if twin.mode == image.mode else None
    except Exception:  # Another release of Pillow may refuse; the upper bytes are right.
        return None
