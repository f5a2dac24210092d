"""Pictures and plots of `ugicm report` as text: colour maps, data URIs, and SVG that takes the page's colours.

Plots and keys are `Markup`: their texts are escaped.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from ugicm.runtime.commands.report.markup import Markup, element
from ugicm.runtime.commands.report.measures import Point

LARGEST_SHOWN = 1600  # pixels, the longer side of a picture in the page
LOSSLESS_PIXELS = 400_000  # pictures up to this size are shown without loss

# Colours at equal steps from 0 to 1, after matplotlib's "inferno" and "viridis" (CC0).
_ERROR = ((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (252, 255, 164))
_BITS = ((68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (253, 231, 37))
MAPS = {"error": _ERROR, "bits": _BITS}

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 46


@dataclass(frozen=True)
class Curve:
    """A line of the rate-distortion plot: `style` is the class of its colour, its marker and its dash in the page."""

    label: str
    style: str
    points: Sequence[Point]


def shown_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) at which the page shows a picture of this size: the same, or scaled to `LARGEST_SHOWN`."""
    scale = min(1.0, LARGEST_SHOWN / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def lossless(width: int, height: int) -> bool:
    """Whether a picture of this size is shown pixel by pixel."""
    return shown_size(width, height) == (width, height) and width * height <= LOSSLESS_PIXELS


def picture_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3) as a data URI, at `shown_size`: exact where `lossless`, else WebP or JPEG of high quality."""
    height, width = pixels.shape[:2]
    image, size = Image.fromarray(pixels), shown_size(width, height)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
    webp = features.check("webp")
    if lossless(width, height):
        return _uri(image, "WEBP" if webp else "PNG", {"lossless": True} if webp else {"optimize": True})
    return _uri(image, "WEBP", {"quality": 92}) if webp else _uri(image, "JPEG", {"quality": 95, "subsampling": 0})


def map_uri(values: np.ndarray, top: float, colours: str, pixelated: bool = False) -> str:
    """float (H, W), from 0 to `top`, in the colours of a map of `MAPS`; `pixelated` keeps each value apart."""
    scaled = np.clip(values / (top or 1.0), 0, 1)
    positions = np.linspace(0, 1, len(MAPS[colours]))
    ramp = np.stack([np.interp(scaled, positions, channel) for channel in np.transpose(MAPS[colours])], 2)
    image = Image.fromarray(np.rint(ramp).astype(np.uint8))
    if pixelated or not features.check("webp"):
        return _uri(image, "PNG", {"optimize": True})
    return _uri(image, "WEBP", {"quality": 85})


def _uri(image: Image.Image, form: str, options: Mapping[str, Any]) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def key(top: float, colours: str, unit: str) -> Markup:
    """The scale below a map: its colours from 0 to `top`."""
    stops = ", ".join(f"rgb{colour}".replace(" ", "") for colour in MAPS[colours])
    ramp = element("span", class_="ramp", style=f"background:linear-gradient(90deg,{stops})")
    return element("span", element("span", 0), ramp, element("span", f"{top:.3g} {unit}"), class_="key")


def rate_distortion_plot(curves: Sequence[Curve], chosen: int) -> Markup:
    """PSNR over bpp, one line a curve; the points of setting `chosen` are ringed on the codec's own curves.

    The plot ends at the right, and 4 dB below, where the codec's own curves (those of style "view…") do; points
    without loss are left out.
    """
    kept = [
        Curve(c.label, c.style, sorted((p for p in c.points if math.isfinite(p.psnr)), key=lambda p: p.bpp))
        for c in curves
    ]
    kept = [curve for curve in kept if curve.points]
    own = [p for curve in kept if curve.style.startswith("view") for p in curve.points]
    if not own:
        return element("p", "Every setting keeps this image without loss: there is no curve to draw.")
    right = 1.12 * max(p.bpp for p in own)
    inside = [p.psnr for curve in kept for p in curve.points if p.bpp <= right]
    low, high = math.floor(max(min(inside), min(p.psnr for p in own) - 4)), math.ceil(max(inside))
    low, high = (low - 1, high + 1) if high - low < 2 else (low, high)

    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(bpp: float) -> float:
        return _LEFT + wide * bpp / right

    def y(db: float) -> float:
        return _HEIGHT - _BOTTOM - tall * (db - low) / (high - low)

    parts = []
    for value in _ticks(0, right):
        parts.append(_line(x(value), _TOP, x(value), y(low)))
        parts.append(_label(f"{value:g}", x(value), y(low) + 18, "middle"))
    for value in _ticks(low, high):
        parts.append(_line(_LEFT, y(value), _WIDTH - _RIGHT, y(value)))
        parts.append(_label(f"{value:g}", _LEFT - 8, y(value) + 4, "end"))
    parts.append(_label("bits a pixel, whole file", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "middle"))
    turned = f"translate(14 {_TOP + tall // 2}) rotate(-90)"
    parts.append(element("text", "PSNR, dB", transform=turned, text_anchor="middle"))
    for curve in reversed(kept):  # the first on top
        inside_plot = [p for p in curve.points if p.bpp <= right and p.psnr >= low]
        ringed = [p for p in curve.points if p.setting == chosen and curve.style.startswith("view")]
        line = element("polyline", points=" ".join(f"{x(p.bpp):.1f},{y(p.psnr):.1f}" for p in curve.points))
        # An inner svg clips what leaves the plot.
        area = {"x": _LEFT, "y": _TOP, "width": wide, "height": tall, "viewBox": f"{_LEFT} {_TOP} {wide} {tall}"}
        marks = [_marker(curve.style, x(p.bpp), y(p.psnr)) for p in inside_plot]
        rings = [element("circle", class_="ring", cx=f"{x(p.bpp):.1f}", cy=f"{y(p.psnr):.1f}", r=9) for p in ringed]
        parts.append(element("g", element("svg", line, **area), *marks, *rings, class_=f"curve {curve.style}"))
    height = 20 * len(kept)
    for row, curve in enumerate(kept):
        at = _HEIGHT - _BOTTOM - 12 - height + 20 * (row + 1) - 6
        start = _WIDTH - _RIGHT - 150
        sample = element("polyline", points=f"{start},{at} {start + 34},{at}")
        parts.append(element("g", sample, _marker(curve.style, start + 17, at), class_=f"curve {curve.style}"))
        parts.append(element("text", curve.label, x=start + 42, y=at + 4))
    said = f"Rate-distortion plot: {', '.join(curve.label for curve in kept)}; the table below has its points"
    return _svg(_WIDTH, _HEIGHT, said, parts)


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str, digits: int, said: str) -> Markup:
    """Horizontal bars, each a label and its (style, length) parts in a row; the total stands at the end.

    `style` is the class of a part's colour in the page; numbers have `digits` decimals.
    """
    label, number, thick, gap = 130, 110, 24, 12
    longest = max(sum(value for _, value in parts) for _, parts in rows) or 1.0
    drawn = []
    for row, (name, parts) in enumerate(rows):
        top, at = row * (thick + gap), float(label)
        drawn.append(element("text", name, x=label - 10, y=top + 17, text_anchor="end"))
        for style, value in parts:
            wide = (_WIDTH - label - number) * value / longest
            told = element("title", f"{style}: {value:,.{digits}f} {unit}")
            box = {"x": f"{at:.2f}", "y": top, "width": f"{wide:.2f}", "height": thick}
            drawn.append(element("rect", told, class_=f"part {style}", **box))
            at += wide
        total = sum(value for _, value in parts)
        drawn.append(element("text", f"{total:,.{digits}f} {unit}", x=f"{at + 8:.1f}", y=top + 17))
    return _svg(_WIDTH, len(rows) * (thick + gap), said, drawn)


def _svg(width: int, height: int, said: str, content: Sequence[Markup]) -> Markup:
    return element("svg", *content, viewBox=f"0 0 {width} {height}", role="img", aria_label=said)


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return element("line", class_="grid", x1=_number(x1), x2=_number(x2), y1=_number(y1), y2=_number(y2))


def _label(text: str, x: float, y: float, anchor: str) -> Markup:
    return element("text", text, x=_number(x), y=_number(y), text_anchor=anchor)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _marker(style: str, x: float, y: float) -> Markup:
    """Circles for the first view, diamonds for others, squares for JPEG, triangles for WebP."""
    shapes = {
        "jpeg": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "webp": ((0, -5), (5, 4), (-5, 4)),
        "view0": (),
    }
    shape = shapes.get(style, ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)))
    if not shape:
        return element("circle", class_="mark", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5)
    return element("polygon", class_="mark", points=" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shape))


def _ticks(low: float, high: float) -> list[float]:
    """Five to ten round numbers from `low` to `high`."""
    rough = (high - low) / 10
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
