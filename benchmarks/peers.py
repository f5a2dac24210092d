"""`python -m benchmarks.peers FOLDER -o OUT`: this codec beside JPEG, WebP, AVIF and JPEG XL, from real files.

Every image is encoded at every setting and decoded from the bytes by each codec, all in one process and one run: JPEG
(optimised Huffman tables), WebP (method 6), AVIF (speeds 6 and 2) and JPEG XL (effort 7; where pillow-jxl-plugin is
installed), through Pillow at its defaults otherwise. Curves are means over the images at each setting. Times are those
of encoding pixels in memory to bytes and back, at the setting whose mean PSNR is nearest to ours at the default
quality; AVIF, JPEG XL and this codec use `--threads` threads, JPEG and WebP one. `--efforts 1 2` puts this codec's
encoder that searches beside them.

What is done stands in `OUT/peers.jsonl`: the same command goes on where it was cut off, one with more efforts measures
what is missing. Writes `peers.json`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import AvifImagePlugin, Image, features
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.runtime.encoder.quality import default_quality
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files.images import read_image
from ugicm.runtime.files.output import make_folder, write_atomically
from ugicm.runtime.measures.metrics import ms_ssim, psnr
from ugicm.training.curves import Curve, bd_rate, mean_curve, pillow_picture

OURS = "ugicm-fast"
_LADDER = (1, 3, 5, 8, 12, 16, 20, 25, 30, 40, 50, 60, 70, 80, 90)
_SHORT = 0.2  # seconds; an operation that takes longer is timed once


@dataclass(frozen=True)
class Peer:
    """Another codec, through Pillow.

    Attributes:
        name: in the tables.
        form: Pillow's name of the format.
        settings: qualities, as Pillow counts them.
        options: what Pillow is told besides.
        threads: the option that says how many threads encode, "" for none.
        needs: the package that Pillow needs for it, "" for none.
    """

    name: str
    form: str
    settings: tuple[int, ...] = _LADDER
    options: dict[str, Any] = field(default_factory=dict)
    threads: str = ""
    needs: str = ""

    def missing(self) -> str:
        """The reason why it cannot be measured here; "" where it can."""
        if self.form == "JXL":
            try:
                importlib.import_module("pillow_jxl")
            except ImportError:
                return f"not installed: pip install {self.needs}"
        elif self.form != "JPEG" and not features.check(self.form.lower()):
            return f"this Pillow is built without {self.form}"
        return ""

    def encode(self, image: Image.Image, setting: int, threads: int) -> bytes:
        out = io.BytesIO()
        more = {self.threads: threads} if self.threads else {}
        image.save(out, self.form, quality=setting, **self.options, **more)
        return out.getvalue()


PEERS = (
    Peer("JPEG, optimised", "JPEG", options={"optimize": True}),
    Peer("WebP, method 6", "WEBP", options={"method": 6}),
    Peer("AVIF, speed 6", "AVIF", options={"speed": 6}, threads="max_threads"),
    Peer("AVIF, speed 2", "AVIF", options={"speed": 2}, threads="max_threads"),
    Peer("JPEG XL, effort 7", "JXL", options={"effort": 7}, threads="num_threads", needs="pillow-jxl-plugin"),
)


@dataclass(frozen=True)
class Point:
    """One image by one codec at one setting; times in milliseconds."""

    setting: int
    bpp: float
    psnr: float
    ms_ssim: float
    encode: float
    decode: float


Measured = dict[str, list[Point]]


def ours(effort: int) -> str:
    """This codec's name in the tables."""
    return f"{OURS}, effort {effort}" if effort else OURS


def timed(work: Callable[[], Any], repeat: int) -> tuple[Any, float]:
    """A result and the median of its milliseconds; of one run where that takes long."""
    times, result = list[float](), None
    for _ in range(repeat):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
        if times[0] > _SHORT:
            break
    return result, 1e3 * statistics.median(times)


def measure(
    image: np.ndarray, codec: Codec, efforts: list[int], peers: list[Peer], threads: int, repeat: int
) -> Measured:
    """One image, uint8 (H, W, 3), by this codec at every effort and by the peers, at every setting."""
    area = image.shape[0] * image.shape[1]

    def point(setting: int, encode: Callable[[], bytes], decode: Callable[[bytes], np.ndarray]) -> Point:
        data, spent = timed(encode, repeat)
        picture, again = timed(lambda: decode(data), repeat)
        return Point(setting, 8 * len(data) / area, psnr(image, picture), ms_ssim(image, picture), spent, again)

    found: Measured = {}
    for effort in efforts:
        codec.decode(codec.encode(image, effort=effort))  # sessions and tables are made once
        found[ours(effort)] = [
            point(q, lambda q=q, e=effort: codec.encode(image, q, e), codec.decode)  # type: ignore[misc]
            for q in range(1, codec.qualities + 1)
        ]
    pixels = Image.fromarray(image)
    for peer in peers:
        found[peer.name] = [
            point(s, lambda p=peer, s=s: p.encode(pixels, s, threads), pillow_picture) for s in peer.settings
        ]
    return found


def resumed(path: Path, head: dict[str, Any]) -> dict[str, Measured]:
    """The images that are done; a last line that was cut off is left out.

    Raises:
        UgicError: the file was begun with another codec, other threads, packages or settings.
    """
    done: dict[str, Measured] = {}
    if not path.exists():
        path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return done
    lines = path.read_text(encoding="utf-8").splitlines()
    if json.loads(lines[0]) != head:
        raise UgicError(f"{path}: was begun with another codec, machine or options; give another folder with -o")
    whole = [lines[0]]
    for line in lines[1:]:
        try:
            values = json.loads(line)
        except ValueError:
            break
        points = {name: [Point(*p) for p in points] for name, points in values["points"].items()}
        done.setdefault(values["image"], {}).update(points)
        whole.append(line)
    write_atomically(path, ("\n".join(whole) + "\n").encode())
    return done


def summary(done: dict[str, Measured], efforts: list[int], peers: list[Peer], quality: int) -> dict[str, Any]:
    """By codec: its mean curve, our rate against it at equal PSNR by effort (BD-rate in per cent), and its times."""
    curves: dict[str, Curve] = {}
    times: dict[str, dict[int, tuple[float, float]]] = {}
    for name in (*map(ours, efforts), *(peer.name for peer in peers)):
        by_setting: dict[int, list[Point]] = {}
        for points in done.values():
            for p in points[name]:
                by_setting.setdefault(p.setting, []).append(p)
        curves[name] = mean_curve({s: [(p.bpp, p.psnr, p.ms_ssim) for p in ps] for s, ps in by_setting.items()})
        times[name] = {
            s: (statistics.median(p.encode for p in ps), statistics.median(p.decode for p in ps))
            for s, ps in by_setting.items()
        }
    aim = next(p["psnr"] for p in curves[OURS] if p["setting"] == quality)
    rows = {}
    for name, curve in curves.items():
        nearest = min(curve, key=lambda p: abs(p["psnr"] - aim))
        encode, decode = times[name][int(nearest["setting"])]
        rows[name] = {
            "our_rate_percent": {
                e: 0.0 if name == ours(e) else bd_rate(rising(curve), rising(curves[ours(e)])) for e in efforts
            },
            "encode_ms": encode,
            "decode_ms": decode,
            "timed_at": nearest,
            "curve": curve,
        }
    return rows


def rising(curve: Curve) -> Curve:
    """The points that have more PSNR than every point of less rate: some settings of a codec give the same file."""
    kept: Curve = []
    for point in curve:
        if not kept or point["psnr"] > kept[-1]["psnr"]:
            kept.append(point)
    return kept


def show(rows: dict[str, Any], efforts: list[int], missing: dict[str, str], console: Console) -> None:
    columns = ["our rate against it at equal PSNR", *(f"at effort {effort}" for effort in efforts[1:])]
    table = Table("codec", *columns, "its encode", "its decode", "timed at", "MS-SSIM there")
    for name, row in rows.items():
        at = row["timed_at"]
        table.add_row(
            name,
            *("–" if rate is None else f"{rate:+.1f} %" if rate else "0" for rate in row["our_rate_percent"].values()),
            *(f"{row[key]:,.1f} ms" for key in ("encode_ms", "decode_ms")),
            f"{at['bpp']:.3f} bpp, {at['psnr']:.2f} dB",
            f"{at['ms_ssim']:.4f}",
        )
    for name, reason in missing.items():
        table.add_row(name, reason, *["–"] * (len(efforts) + 3))
    console.print(table)


def environment(codec: Codec, args: argparse.Namespace, peers: list[Peer]) -> dict[str, Any]:
    """The first line of `peers.jsonl`: what figures of one table must have in common."""
    packages = {}
    for package in ("Pillow", "onnxruntime", "constriction", "numpy", "pillow-jxl-plugin"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    return {
        "codec_id": codec.codec_id.hex(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "libavif": features.version("avif"),
        "threads": args.threads,
        "repeat": args.repeat,
        "settings": {peer.name: list(peer.settings) for peer in peers},
    }


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    p.add_argument("folder", type=Path, help="folder of lossless PNG images, e.g. Kodak's")
    p.add_argument("-o", "--output", type=Path, default=Path("peers-output"), help="default: %(default)s")
    p.add_argument("--bundle", type=Path, help="default: the shipped one")
    p.add_argument("--efforts", type=int, nargs="+", default=[], metavar="EFFORT", help="of this codec, besides 0")
    p.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], metavar="NAME", help="of the others")
    p.add_argument("--every", type=int, default=1, metavar="N", help="each N-th image only")
    p.add_argument("--threads", type=int, default=2, help="of each codec that takes several; default %(default)s")
    p.add_argument("--repeat", type=int, default=5, help="runs of what takes under 0.2 s; default %(default)s")
    args = p.parse_args(arguments)
    efforts = sorted({0, *args.efforts})
    console = Console(width=None if sys.stdout.isatty() else 160)
    wanted = [peer for peer in PEERS if args.only is None or peer.name in args.only]
    missing = {peer.name: peer.missing() for peer in wanted if peer.missing()}
    peers = [peer for peer in wanted if peer.name not in missing]
    AvifImagePlugin.DEFAULT_MAX_THREADS = args.threads
    if any(peer.form == "JXL" for peer in peers):
        importlib.import_module("pillow_jxl.JpegXLImagePlugin").DECODE_THREADS = args.threads
    try:
        if min(args.every, args.threads, args.repeat) < 1:
            raise UgicError("--every, --threads and --repeat: give 1 or more")
        files = sorted(args.folder.glob("*.png"))[:: args.every]
        if not files:
            raise UgicError(f"{args.folder}: no PNG files there; give a folder of lossless images")
        codec = Codec.from_bundle(args.bundle, threads=args.threads)
        make_folder(args.output, parents=True)
        state = args.output / "peers.jsonl"
        head = environment(codec, args, peers)
        done = resumed(state, head)
        for i, file in enumerate(files):
            known = done.setdefault(file.name, {})
            missed = [e for e in efforts if ours(e) not in known], [peer for peer in peers if peer.name not in known]
            if not any(missed):
                continue
            console.print(f"{file.name}, {i + 1} of {len(files)}", style="dim", highlight=False)
            found = measure(read_image(file), codec, *missed, args.threads, args.repeat)
            known.update(found)
            points = {n: [list(vars(p).values()) for p in ps] for n, ps in found.items()}
            with state.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"image": file.name, "points": points}) + "\n")
        rows = summary({f.name: done[f.name] for f in files}, efforts, peers, default_quality(codec.qualities))
        result = {**head, "images": [f.name for f in files], "missing": missing, "codecs": rows}
        write_atomically(args.output / "peers.json", (json.dumps(result, indent=1) + "\n").encode())
    except UgicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(rows, efforts, missing, console)
    console.print(f"{len(files)} images, {args.threads} threads; wrote {args.output / 'peers.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
