"""`ugicm demo`: one photograph through the codec and back, in numbers and in one picture."""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ugicm.runtime.commands.cli import Parser, printable, run
from ugicm.runtime.errors import ImageError
from ugicm.runtime.files.images import read_image, write_image
from ugicm.runtime.files.output import make_folder, write_atomically
from ugicm.runtime.measures.metrics import ms_ssim, psnr

if TYPE_CHECKING:
    from rich.table import Table

    from ugicm.runtime.codec import Codec

_QUALITIES = (2, 4, 6)
_STAGES = ("g_a", "h_a", "exact", "context", "entropy", "g_s")
_PANEL = 480  # pixels, width of one image of the picture
_MARGIN = 12
_JPEG_SIDE = 65500  # libjpeg's limit


@dataclass(frozen=True)
class JpegMatch:
    """JPEG at about a given number of bytes: the nearer of the two qualities around it.

    quality, bytes, pixels (uint8 (H, W, 3)), psnr (dB): of the nearer quality.
    psnr_at_bytes: dB, interpolated between those two on a logarithmic scale of bytes; None where JPEG's
        smallest file is larger, or its largest smaller.
    """

    quality: int
    bytes: int
    pixels: np.ndarray
    psnr: float
    psnr_at_bytes: float | None


@dataclass(frozen=True)
class Result:
    """One quality of the demo.

    bytes: of the .ugic file.
    views: uint8 (H, W, 3) by condition; "" is the view of a codec without conditions.
    encode_ms, decode_ms: milliseconds by stage.
    """

    quality: int
    bytes: int
    views: dict[str, np.ndarray]
    jpeg: JpegMatch
    encode_ms: dict[str, float]
    decode_ms: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Returns the exit status."""
    parser = Parser(prog="ugicm demo", description="Compress one photograph at three qualities and look at it.")
    parser.add_argument(
        "image",
        nargs="?",
        type=Path,
        metavar="IMAGE",
        help="default: a photograph that scikit-image brings along",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"), metavar="FOLDER")
    parser.add_argument("--bundle", type=Path, metavar="B", help="folder of the codec; default: the shipped one")
    return run(parser, _demo, arguments)


def jpeg_at(pixels: np.ndarray, size: int) -> JpegMatch:
    """JPEG (Pillow, 4:2:0, optimised Huffman tables) of uint8 (H, W, 3) `pixels` at about `size` bytes."""
    files: dict[int, bytes] = {}

    def encoded(quality: int) -> bytes:
        if quality not in files:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
            files[quality] = buffer.getvalue()
        return files[quality]

    def decoded(quality: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(encoded(quality))))

    low, high = 1, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(encoded(middle)) <= size else (low, middle)
    below, above = len(encoded(low)), len(encoded(high))
    nearer = low if abs(below - size) <= abs(above - size) else high
    between = None
    if below <= size <= above and below < above:
        share = math.log(size / below) / math.log(above / below)
        between = (1 - share) * psnr(pixels, decoded(low)) + share * psnr(pixels, decoded(high))
    view = decoded(nearer)
    return JpegMatch(nearer, len(encoded(nearer)), view, psnr(pixels, view), between)


def comparison(original: np.ndarray, result: Result) -> Image.Image:
    """The picture: original, views and JPEG side by side, below them a detail of each, enlarged."""
    height, width = original.shape[:2]
    pixels = height * width
    panels = [("original", f"{width}x{height} pixels", original)]
    for condition, view in result.views.items():
        name = f"{condition} view".strip()
        panels.append((name, f"{_rate(result.bytes, pixels)}, {psnr(original, view):.2f} dB", view))
    jpeg = result.jpeg
    panels.append(("JPEG", f"{_rate(jpeg.bytes, pixels)}, {jpeg.psnr:.2f} dB", jpeg.pixels))

    top, left, side = _detail(original)
    tall = max(1, min(round(_PANEL * height / width), 2 * _PANEL))
    wide = max(1, round(tall * width / height))
    title, label = ImageFont.load_default(22), ImageFont.load_default(16)
    caption = 60
    sheet = Image.new(
        "RGB",
        (len(panels) * (_PANEL + _MARGIN) + _MARGIN, caption + tall + _PANEL + 3 * _MARGIN),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for index, (name, facts, view) in enumerate(panels):
        x = _MARGIN + index * (_PANEL + _MARGIN)
        draw.text((x, _MARGIN), name, "black", title)
        draw.text((x, _MARGIN + 28), facts, "dimgrey", label)
        whole = Image.fromarray(view).resize((wide, tall), Image.Resampling.LANCZOS)
        corner = (x + (_PANEL - wide) // 2, caption + _MARGIN)
        sheet.paste(whole, corner)
        if index == 0:
            scale = tall / height
            box = [corner[0] + left * scale, corner[1] + top * scale]
            draw.rectangle([*box, box[0] + side * scale - 1, box[1] + side * scale - 1], outline="yellow", width=2)
        # Nearest neighbour: the enlargement shows the pixels as decoded and adds no smoothness of its own.
        detail = Image.fromarray(view[top : top + side, left : left + side])
        sheet.paste(detail.resize((_PANEL, _PANEL), Image.Resampling.NEAREST), (x, caption + tall + 2 * _MARGIN))
    return sheet


def _detail(pixels: np.ndarray) -> tuple[int, int, int]:
    """(top, left, side) of the square with the most edges in it."""
    height, width = pixels.shape[:2]
    side = min(height, width, _PANEL // 4)
    grey = pixels.mean(axis=2)
    edges = np.zeros((height, width))
    edges[1:] += np.abs(np.diff(grey, axis=0))
    edges[:, 1:] += np.abs(np.diff(grey, axis=1))
    total = np.pad(np.minimum(edges, 40).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(top), int(left), side


def _demo(options: argparse.Namespace) -> int:
    from rich.console import Console

    from ugicm.runtime.codec import Codec  # a backend is loaded only once the command line makes sense

    torch_was_there = "torch" in sys.modules
    name, original = _photograph(options.image)
    codec = Codec.from_bundle(options.bundle)
    folder: Path = options.output
    make_folder(folder)
    console = Console() if sys.stdout.isatty() else Console(width=120, color_system=None)

    height, width = original.shape[:2]
    print(f"{printable(name)}: {width}x{height} pixels; codec {codec.bundle.manifest.architecture}")
    codec.decode(codec.encode(original, 1))  # the first run of a network is slower than all others
    qualities = sorted({min(quality, codec.qualities) for quality in _QUALITIES})
    results = [_one_quality(codec, original, quality, folder / name) for quality in qualities]
    console.print(_quality_table(original, results))
    print("JPEG: Pillow, 4:2:0, optimised; PSNR interpolated between the two qualities around our bytes\n")
    console.print(_time_table(results))
    if len(results[0].views) > 1:
        print("decode: all views of one file")

    picture = folder / f"{name}.comparison.png"
    write_image(picture, np.asarray(comparison(original, results[0])))
    print(f"\nfiles and decoded views are in {printable(folder)}")
    print(f"look at {printable(picture)}, which compares them at quality {results[0].quality}")
    torch_is_there = "torch" in sys.modules
    print(f"PyTorch imported: {'yes' if torch_is_there else 'no'}")
    if torch_is_there and not torch_was_there:
        raise AssertionError("the runtime imported PyTorch; it is meant to run without")
    print("next: ugicm encode YOUR_IMAGE.png -o YOUR_IMAGE.ugic")
    return 0


def _photograph(path: Path | None) -> tuple[str, np.ndarray]:
    """(name without suffix, pixels) of the image to show."""
    if path is not None:
        pixels = read_image(path)
        if max(pixels.shape) > _JPEG_SIDE:
            raise ImageError(f"{path}: JPEG, to compare with, holds {_JPEG_SIDE} pixels a side; resize or split it")
        return path.stem, pixels
    try:
        from skimage.data import astronaut
    except ImportError:
        print("scikit-image, which carries the demo's photograph, is not installed: a drawn picture takes its place")
        return "drawing", drawing()
    return "astronaut", np.ascontiguousarray(astronaut())


def drawing(side: int = 512) -> np.ndarray:
    """A drawn (side, side, 3) uint8 picture: shaded discs, stripes that get finer, and text."""
    y, x = np.mgrid[:side, :side] / side
    pixels = np.stack([0.5 + 0.4 * x, 0.55 + 0.3 * y, 0.75 - 0.3 * x * y], 2)
    pixels[y > 0.75] *= 0.7 + 0.3 * np.sin(600 * x**3)[y > 0.75, None]
    for cx, cy, r, colour in ((0.3, 0.35, 0.2, (0.9, 0.3, 0.2)), (0.65, 0.5, 0.16, (0.2, 0.5, 0.3))):
        depth = r**2 - (x - cx) ** 2 - (y - cy) ** 2
        light = 0.4 + 0.6 * np.sqrt(np.clip(depth, 0, None)) / r
        pixels[depth > 0] = (light[..., None] * np.array(colour))[depth > 0]
    image = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
    ImageDraw.Draw(image).text((side * 0.45, side * 0.06), "ugicm", (30, 30, 60), ImageFont.load_default(side // 9))
    return np.asarray(image)


def _one_quality(codec: Codec, original: np.ndarray, quality: int, stem: Path) -> Result:
    data = codec.encode(original, quality)
    encode_ms = dict(codec.timings)
    file = stem.with_name(f"{stem.name}.q{quality}.ugic")
    write_atomically(file, data)
    conditions = codec.conditions or (None,)
    views = codec.decode_views(file.read_bytes(), conditions, str(file))
    named = {condition or "": view for condition, view in zip(conditions, views, strict=True)}
    decode_ms = dict(codec.timings)
    for condition, view in named.items():
        write_image(file.with_name(f"{stem.name}.q{quality}{'.' * bool(condition)}{condition}.png"), view)
    return Result(quality, len(data), named, jpeg_at(original, len(data)), encode_ms, decode_ms)


def _rate(size: int, pixels: int) -> str:
    return f"{size:,} bytes, {8 * size / pixels:.3f} bpp"


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _quality_table(original: np.ndarray, results: Sequence[Result]) -> Table:
    views = list(results[0].views)
    first = f"{views[0]} view".strip()
    table = _table(
        "quality",
        "bytes",
        "bpp",
        f"{first}\nPSNR",
        f"{first}\nMS-SSIM",
        "JPEG PSNR,\nsame bytes",
        *(f"{view} view\nPSNR" for view in views[1:]),
    )
    for result in results:
        at_bytes = result.jpeg.psnr_at_bytes
        main_view = result.views[views[0]]
        table.add_row(
            str(result.quality),
            f"{result.bytes:,}",
            f"{8 * result.bytes / (original.shape[0] * original.shape[1]):.3f}",
            f"{psnr(original, main_view):.2f} dB",
            f"{ms_ssim(original, main_view):.4f}",
            "no such JPEG" if at_bytes is None else f"{at_bytes:.2f} dB",
            *(f"{psnr(original, result.views[view]):.2f} dB" for view in views[1:]),
        )
    return table


def _time_table(results: Sequence[Result]) -> Table:
    stages = [s for s in _STAGES if any(s in r.encode_ms or s in r.decode_ms for r in results)]
    table = _table("milliseconds", *stages, "all")
    for result in results:
        for verb, times in (("encode", result.encode_ms), ("decode", result.decode_ms)):
            cells = [f"{times[stage]:.1f}" if stage in times else "" for stage in stages]
            table.add_row(f"{verb} at {result.quality}", *cells, f"{sum(times.values()):.1f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
