"""The page that `ugicm report` writes: for each image pictures under a slider, maps, curves, bits and milliseconds.

It is one file that fetches nothing: pictures are data URIs, plots are SVG, and its policy forbids the browser to load
more. `report.html` is its frame, with the style and the script.
"""

from __future__ import annotations

import platform
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ugicm import __version__
from ugicm.runtime.commands.cli import printable
from ugicm.runtime.commands.demo import JpegMatch, jpeg_at
from ugicm.runtime.commands.report.figures import (
    Curve,
    bars,
    key,
    lossless,
    map_uri,
    picture_uri,
    rate_distortion_plot,
    shown_size,
)
from ugicm.runtime.commands.report.markup import Markup, element, join
from ugicm.runtime.commands.report.measures import (
    LARGEST_SIDE,
    LatentBits,
    Times,
    codec_points,
    latent_bits,
    pillow_points,
    times_of,
)
from ugicm.runtime.measures.metrics import ms_ssim, psnr
from ugicm.runtime.processes.cpus import processors

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

TEMPLATE = Path(__file__).with_name("report.html")
_RUNS = 7  # for the times of a small image; fewer the larger it is
_RUN_PIXELS = 8_000_000  # what all runs together encode, but one run at least
_PERCENTILE = 99.5  # of the errors, at the top of their maps' scale


@dataclass(frozen=True)
class Section:
    """An image in the page.

    Attributes:
        html: its section.
        row: the cells of its row in the summary: texts and elements.
        line: what the command line prints of it.
    """

    html: Markup
    row: tuple[str, ...]
    line: str


@dataclass(frozen=True)
class _Layer:
    """A picture of a section: a data URI, and what is said of it as plain text."""

    name: str
    uri: str
    facts: str
    key: Markup = Markup("")


def page(codec: Codec, sections: Sequence[Section], quality: int, threads: int | None) -> str:
    """The whole page, HTML."""
    manifest = codec.bundle.manifest
    views = [_view_name(condition) for condition in codec.conditions or ("",)]
    heads = ["image", "pixels", "bytes", "bpp"]
    heads += [head for view in views for head in (f"{view}, PSNR", "MS-SSIM")] + ["JPEG at these bytes, PSNR"]
    count = f"{len(sections)} image{'s' * (len(sections) > 1)}"
    facts = (
        f"{count} at quality {quality} of 1 to {codec.qualities}; codec {manifest.architecture} "
        f"({manifest.precision}), id {manifest.codec_id}"
    )
    workers = f"{threads} thread{'s' * (threads != 1)}" if threads else "as many threads as the backend chose"
    footer = (
        f"ugicm {__version__}; {codec.backend.name}, {workers}; {_processor()}, {processors()} CPUs; "
        f"Python {platform.python_version()}. This page fetches nothing."
    )
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="Report of the ugicm codec",
        facts=join([facts]),
        summary=element("div", _table(heads, [section.row for section in sections]), class_="card wide"),
        sections=join([section.html for section in sections], "\n"),
        footer=join([footer]),
    )


def section(codec: Codec, name: str, pixels: np.ndarray, quality: int, anchor: str) -> Section:
    """Encode, decode and measure one image.

    Args:
        name: what the page calls the image; any text.
        pixels: uint8 (H, W, 3).
        quality: of the views, 1 to the codec's best.
        anchor: id of the section in the page.

    Raises:
        What `Codec.encode` and `Codec.decode` raise.
    """
    height, width = pixels.shape[:2]
    data = codec.encode(pixels, quality)
    conditions = codec.conditions or (None,)
    views = {c or "": view for c, view in zip(conditions, codec.decode_views(data, conditions), strict=True)}
    jpeg = jpeg_at(pixels, len(data)) if max(width, height) <= LARGEST_SIDE["JPEG"] else None
    bits = latent_bits(codec, data)
    points = codec_points(codec, pixels)
    times = times_of(codec, pixels, quality, max(1, min(_RUNS, _RUN_PIXELS // (width * height))))

    bpp = 8 * len(data) / (width * height)
    quality_of = {c: (psnr(pixels, view), ms_ssim(pixels, view)) for c, view in views.items()}
    most = max(p.bpp for curve in points.values() for p in curve)
    curves = [Curve(_view_name(c), f"view{min(i, 1)}", curve) for i, (c, curve) in enumerate(points.items())]
    curves += [
        Curve(label, style, pillow_points(pixels, form, most))
        for label, style, form in (("JPEG", "jpeg", "JPEG"), ("WebP", "webp", "WEBP"))
    ]
    facts = f"{width}×{height} pixels; {len(data):,} bytes, {bpp:.3f} bits a pixel at quality {quality}"
    plots = [
        element("div", element("h3", "Rate and distortion"), rate_distortion_plot(curves, quality), _points(curves)),
        element("div", *_time_part(times, len(views)), *_bits_part(bits)),
    ]
    html = element(
        "section",
        element("h2", printable(name), id=f"{anchor}-name"),
        element("p", f"{facts}. {_how_shown(width, height)}", class_="quiet"),
        _COMPARE,
        _panels([*_pictures(pixels, views, jpeg, len(data)), *_maps(pixels, views, bits)], width, height),
        element("div", *plots, class_="columns"),
        id=anchor,
        data_image=True,
        aria_labelledby=f"{anchor}-name",
    )
    row = [element("a", printable(name), href=f"#{anchor}"), f"{width}×{height}", f"{len(data):,}", f"{bpp:.3f}"]
    row += [cell for db, similarity in quality_of.values() for cell in (_db(db), f"{similarity:.4f}")]
    row.append("–" if jpeg is None or jpeg.psnr_at_bytes is None else _db(jpeg.psnr_at_bytes))
    line = f"quality {quality}  {len(data):,} bytes  {bpp:.3f} bpp  "
    line += "  ".join(f"{_view_name(c)} {_db(db)}" for c, (db, _) in quality_of.items())
    return Section(html, tuple(row), line)


# ---- parts of a section

_COMPARE = Markup("""<div class="compare" hidden>
<div class="tools">
<label>Left <select></select></label>
<label>Right <select></select></label>
<label>Size <select><option value="fit">as large as fits</option><option value="1">100 %</option>
<option value="2">200 %</option><option value="4">400 %</option></select></label>
</div>
<div class="frame" tabindex="0" role="group" aria-label="Two pictures, one over the other">
<div class="stage"><img alt=""><img alt=""><div class="line"></div></div>
</div>
<input type="range" min="0" max="100" step="0.1" value="50" aria-label="Divider between the left and the right picture">
</div>""")


def _pictures(pixels: np.ndarray, views: dict[str, np.ndarray], jpeg: JpegMatch | None, size: int) -> list[_Layer]:
    area = pixels.shape[0] * pixels.shape[1]

    def facts(view: np.ndarray, length: int) -> str:
        rate = f"{length:,} bytes, {8 * length / area:.3f} bpp"
        return f"{rate}, {_db(psnr(pixels, view))}, MS-SSIM {ms_ssim(pixels, view):.4f}"

    layers = [_Layer("original", picture_uri(pixels), f"{pixels.shape[1]}×{pixels.shape[0]} pixels")]
    layers += [_Layer(_view_name(c), picture_uri(view), facts(view, size)) for c, view in views.items()]
    if jpeg is not None:
        layers.append(_Layer(f"JPEG {jpeg.quality}", picture_uri(jpeg.pixels), facts(jpeg.pixels, jpeg.bytes)))
    return layers


def _maps(pixels: np.ndarray, views: dict[str, np.ndarray], bits: LatentBits) -> list[_Layer]:
    errors = {c: _difference(pixels, view) for c, view in views.items()}
    top = max(2.0, *(float(np.percentile(error, _PERCENTILE)) for error in errors.values()))
    layers = [
        _Layer(
            f"error of the {_view_name(c)}",
            map_uri(_shown(error), top, "error"),
            f"mean {error.mean():.2f} grey levels of 255",
            key(top, "error", "levels"),
        )
        for c, error in errors.items()
    ]
    if len(views) > 1:
        (first, one), *_, (last, other) = views.items()
        change = _difference(one, other)
        top = max(1.0, float(np.percentile(change, _PERCENTILE)))
        layers.append(
            _Layer(
                f"{_view_name(first)} against {_view_name(last)}",
                map_uri(_shown(change), top, "error"),
                f"mean {change.mean():.2f} grey levels of 255: what the condition changes",
                key(top, "error", "levels"),
            )
        )
    spent = bits.per_pixel()
    layers.append(
        _Layer(
            "where the bits went",
            map_uri(_latents_shown(spent, bits.stride, pixels.shape), float(spent.max()), "bits", pixelated=True),
            f"each square is a latent position, {bits.stride}×{bits.stride} pixels: the bits of all its symbols",
            key(float(spent.max()), "bits", "bits a pixel"),
        )
    )
    return layers


def _panels(layers: Sequence[_Layer], width: int, height: int) -> Markup:
    wide, tall = shown_size(width, height)
    figures = []
    for layer in layers:
        name, facts = printable(layer.name), printable(layer.facts)
        said = printable(f"{layer.name}: {layer.facts}")
        picture = element("img", data_layer=name, src=layer.uri, width=wide, height=tall, alt=said)
        figures.append(element("figure", picture, element("figcaption", element("b", name), facts, layer.key)))
    return element("div", *figures, class_="panels")


def _time_part(times: Times, views: int) -> list[Markup]:
    rows = [("encode", times.encode), ("decode", times.decode)]
    if views > 1:
        rows = [rows[0], ("decode, one view", times.decode), (f"decode, {views} views", times.decode_all)]
    stages = list(dict.fromkeys(stage for _, part in rows for stage in part))
    drawn = bars(
        [(name, tuple(part.items())) for name, part in rows], "ms", 1, "Milliseconds by stage; a table follows"
    )
    heads = ["ms", *(join([_swatch(stage), stage]) for stage in stages)]
    cells = [[name, *(f"{part[s]:,.1f}" if s in part else "" for s in stages)] for name, part in rows]
    measured = "One run" if times.runs == 1 else f"Medians of {times.runs} runs"
    note = f"{measured}, sessions and tables at hand; reading and writing of files is not counted."
    table = element("div", _table(heads, cells), class_="wide")
    return [element("h3", "Time"), drawn, table, element("p", note, class_="quiet")]


def _bits_part(bits: LatentBits) -> list[Markup]:
    parts = [("y", float(bits.y.sum())), ("z", float(bits.z.sum())), ("guards", bits.guards), ("other", bits.rest)]
    parts = [(style, value / 8) for style, value in parts if value]
    names = {
        "y": "latents y",
        "z": "hyper-latents z",
        "guards": "shifts of guarded rounding",
        "other": "header, checksums, ends of substreams",
    }
    total = sum(value for _, value in parts)
    legend = [
        join([_swatch(style), f"{names[style]} {value:,.0f} bytes, {100 * value / total:.1f} %"])
        for style, value in parts
    ]
    ordered = np.sort(bits.channels)[::-1]
    half = int(np.searchsorted(ordered.cumsum(), ordered.sum() / 2)) + 1
    drawn = bars([("one file", parts)], "bytes", 0, "Bytes of the file by what they hold")
    share = f"Half of the bits of y are in {half} of its {ordered.size} channels." if ordered.sum() else ""
    return [element("h3", "Bytes"), drawn, element("p", join(legend, "; "), f". {share}", class_="quiet")]


def _swatch(style: str) -> Markup:
    return element("span", class_=f"swatch {style}")


def _points(curves: Sequence[Curve]) -> Markup:
    rows = [
        [curve.label, str(point.setting), f"{point.bpp:.4f}", _db(point.psnr)]
        for curve in curves
        for point in curve.points
    ]
    note = "JPEG: Pillow, 4:2:0, optimised. WebP: Pillow, method 6. Ringed: the quality shown above."
    table = element("div", _table(["codec", "setting", "bpp", "PSNR"], rows), class_="wide")
    return join([element("p", note, class_="quiet"), element("details", element("summary", "All points"), table)])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table of texts and elements."""
    top = element("thead", element("tr", *(element("th", head, scope="col") for head in heads)))
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    return element("table", top, element("tbody", *body))


# ---- small things


def _view_name(condition: str) -> str:
    return f"{condition} view" if condition else "decoded view"


def _how_shown(width: int, height: int) -> str:
    if lossless(width, height):
        return "The pictures are shown exactly."
    shown = shown_size(width, height)
    smaller = f"scaled down to {shown[0]}×{shown[1]}" if shown != (width, height) else "at their own size"
    return f"To keep the page small the pictures are shown {smaller} and compressed a little; all figures are exact."


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 (H, W): mean absolute difference of the channels of two uint8 (H, W, 3)."""
    return np.abs(first.astype(np.int16) - second).mean(axis=2, dtype=np.float32)


def _shown(values: np.ndarray) -> np.ndarray:
    """float32 (H, W) averaged down to the size at which the page shows a picture of that size."""
    size = shown_size(values.shape[1], values.shape[0])
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def _latents_shown(values: np.ndarray, stride: int, shape: Sequence[int]) -> np.ndarray:
    """Values of latent positions, each repeated over the pixels it stands for in the shown picture."""
    wide, tall = shown_size(shape[1], shape[0])
    rows = (np.arange(tall) * shape[0] // tall) // stride
    columns = (np.arange(wide) * shape[1] // wide) // stride
    return values[rows][:, columns]


def _db(value: float) -> str:
    return f"{value:.2f} dB" if np.isfinite(value) else "no loss"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
