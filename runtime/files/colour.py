"""Colours to sRGB: a profile is understood by what it does to colours, not by its name.

Little CMS converts 8-bit pictures (through Pillow's ImageCms, its defaults: perceptual intent); 16-bit ones of matrix
profiles are converted here, because ImageCms takes 8 bits and dark linear light does not survive them. HDR (ITU-R
BT.2100) is brought to sRGB by putting its reference white, 203 cd/m² (BT.2408), at 255; brighter light is clipped.
"""

from __future__ import annotations

import io
from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ugicm.runtime.files import profiles
from ugicm.runtime.files.containers import Codepoints
from ugicm.runtime.files.pixels import reduced

_SAME = 2  # levels: a profile that changes no colour by more is sRGB
_ROWS = 64
_WHITE = 203.0  # cd/m²
_SRGB_GAMMA = 0.45455
_GAMMA_TOLERANCE = 0.05  # as libpng's: smaller corrections are not worth making
HDR = {16: "PQ", 18: "HLG"}


class ProfileError(Exception):
    """A profile that cannot convert these pixels; the text says why, for a note."""


@lru_cache(maxsize=8)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile leaves sRGB colours within 2 levels as they are. Raises ProfileError."""
    space = profiles.colour_space(icc)
    ramp = np.arange(256, dtype=np.uint8)[None]
    if space == "GRAY":
        return _far(ramp, icc) <= _SAME
    if space != "RGB":
        return False
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return _far(np.concatenate([cube, np.repeat(ramp[..., None], 3, axis=2)], axis=1), icc) <= _SAME


def to_srgb(colour: np.ndarray, icc: bytes) -> np.ndarray:
    """uint8 (H, W, 3) sRGB of samples (see `pixels.Samples.colour`) whose profile is `icc`.

    Raises:
        ProfileError: damaged, or a profile for other samples than these.
    """
    space = profiles.colour_space(icc)
    if not space:
        raise ProfileError("damaged")
    if colour.ndim == 2 and space == "RGB":
        colour = np.repeat(colour[..., None], 3, axis=2)
    expected = "GRAY" if colour.ndim == 2 else {3: "RGB", 4: "CMYK"}[colour.shape[2]]
    if space != expected:
        raise ProfileError(f"for {space} pixels")
    if colour.dtype == np.uint16 and (profile := profiles.read_profile(icc)) is not None:
        return _by_matrix(colour, profile)
    from PIL import ImageCms

    image = Image.fromarray(reduced(colour), {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}[space])
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, source, _srgb(), outputMode="RGB")
    except Exception as error:  # Little CMS says what was wrong with a damaged profile in types and words of its own.
        raise ProfileError("damaged") from error
    assert converted is not None
    return np.array(converted)


def hdr_to_srgb(colour: np.ndarray, codepoints: Codepoints) -> np.ndarray:
    """uint8 (H, W, 3) sRGB of PQ or HLG samples, grey or RGB."""
    if colour.ndim == 2:
        colour = np.repeat(colour[..., None], 3, axis=2)
    top = 255 if colour.dtype == np.uint8 else 65535
    values = np.linspace(0, 1, top + 1)
    if codepoints.transfer == 16:  # BT.2100, table 4
        root = values ** (1 / 78.84375)
        light = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:  # BT.2100, table 5
        upper = (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(values <= 0.5, values**2 / 3, upper)
    curve = (light / _WHITE if codepoints.transfer == 16 else light).astype(np.float32)
    chromaticities = profiles.PRIMARIES.get(codepoints.primaries, profiles.BT2020)
    matrix = _from_xyz() @ profiles.to_xyz(chromaticities)
    out = np.empty(colour.shape, np.uint8)
    for row in range(0, len(colour), _ROWS):
        linear = curve[colour[row : row + _ROWS]]
        if codepoints.transfer == 18:  # a display of 1,000 cd/m², system gamma 1.2
            luminance = linear @ np.array([0.2627, 0.6780, 0.0593], np.float32)
            linear = linear * (luminance[..., None] ** 0.2 * np.float32(1000 / _WHITE))
        out[row : row + _ROWS] = _encode(linear @ matrix.T.astype(np.float32))
    return out


def profile_of_codepoints(codepoints: Codepoints) -> bytes | None:
    """The ICC profile of H.273 code points; None where they are sRGB or not known here."""
    curve = profiles.CURVES.get(codepoints.transfer)
    chromaticities = profiles.PRIMARIES.get(codepoints.primaries)
    if curve is None or chromaticities is None:
        return None
    if chromaticities == profiles.BT709 and curve in (profiles.SRGB_CURVE, profiles.BT709_CURVE):
        return None  # BT.709 video is shown like sRGB: its curve is that of a camera, not that of a screen
    if curve == profiles.BT709_CURVE:
        curve = profiles.SRGB_CURVE
    return profiles.make_profile(f"H.273 {codepoints.primaries}/{codepoints.transfer}", chromaticities, curve)


def profile_of_png(info: dict[Any, Any]) -> bytes | None:
    """The ICC profile of the chunks gAMA and cHRM of a PNG file, from Pillow's `info`; None where they are sRGB's.

    Raises:
        ProfileError: chunks that describe no colours.
    """
    gamma, primaries = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or (gamma is None and primaries is None):
        return None
    if gamma is not None and not 0.01 <= gamma <= 10:
        raise ProfileError("damaged")
    curve: tuple[float, ...] = profiles.SRGB_CURVE
    if gamma is not None and abs(gamma / _SRGB_GAMMA - 1) > _GAMMA_TOLERANCE:
        curve = (1 / gamma,)
    try:
        chromaticities = profiles.BT709
        if primaries is not None and max(abs(a - b) for a, b in zip(primaries, profiles.BT709, strict=True)) > 0.002:
            chromaticities = tuple(primaries)
        if curve == profiles.SRGB_CURVE and chromaticities == profiles.BT709:
            return None
        return profiles.make_profile("PNG gAMA and cHRM", chromaticities, curve)
    except ValueError as error:
        raise ProfileError("damaged") from error


@cache
def adobe_rgb() -> bytes:
    """The profile of pictures that cameras mark as Adobe RGB in EXIF alone (DCF 2.0)."""
    return profiles.make_profile("Adobe RGB (1998) compatible", profiles.ADOBE, (563 / 256,))


def _far(probe: np.ndarray, icc: bytes) -> int:
    seen = to_srgb(probe, icc).astype(int)
    return int(np.abs(seen - (probe if probe.ndim == 3 else probe[..., None])).max())


@cache
def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.createProfile("sRGB")


@cache
def _from_xyz() -> np.ndarray:
    return np.linalg.inv(profiles.to_xyz(profiles.BT709))


@cache
def _encoding() -> np.ndarray:
    """sRGB bytes of linear light in 65,535 steps (IEC 61966-2-1)."""
    x = np.linspace(0, 1, 65536)
    return (255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)).round().astype(np.uint8)


def _encode(linear: np.ndarray) -> np.ndarray:
    return _encoding()[(np.clip(linear, 0, 1) * 65535 + 0.5).astype(np.uint16)]


def _by_matrix(colour: np.ndarray, profile: profiles.MatrixProfile) -> np.ndarray:
    out = np.empty((*colour.shape[:2], 3), np.uint8)
    matrix = None if profile.matrix is None else (_from_xyz() @ profile.matrix).T.astype(np.float32)
    for row in range(0, len(colour), _ROWS):
        part = colour[row : row + _ROWS]
        if matrix is None:
            out[row : row + _ROWS] = _encode(profile.curves[0][part])[..., None]
        else:
            linear = np.stack([curve[part[..., i]] for i, curve in enumerate(profile.curves)], axis=-1)
            out[row : row + _ROWS] = _encode(linear @ matrix)
    return out
