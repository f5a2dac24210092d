"""`python -m benchmarks.effort FOLDER -o OUT`: how much an encoder that searches saves, from real files.

Every image is encoded at every quality and effort and decoded by the plain decoder. BD-rates are of the mean curves,
against effort 0, in PSNR and in MS-SSIM (in dB, -10 log10(1 - MS-SSIM)); so is the encode time against effort 0's, all
of it on `--threads` threads. Images that are done stand in `OUT/effort.jsonl`: the same command goes on where it was
cut off. Writes `effort.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ugicm import Codec
from ugicm.runtime.effort.search import SCHEDULES
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files.images import read_image
from ugicm.runtime.files.output import make_folder, write_atomically
from ugicm.runtime.measures.metrics import ms_ssim, psnr
from ugicm.training.curves import Curve, bd_rate, mean_curve

Points = list[tuple[float, float, float, float]]
"""By quality: bpp, PSNR in dB, MS-SSIM, seconds."""


def measure(codec: Codec, image: np.ndarray, effort: int) -> Points:
    """The files of an image at each quality."""
    points = []
    for quality in range(1, codec.qualities + 1):
        started = time.perf_counter()
        data = codec.encode(image, quality, effort)
        seconds = time.perf_counter() - started
        picture = codec.decode(data)
        bpp = 8 * len(data) / (image.shape[0] * image.shape[1])
        points.append((bpp, psnr(image, picture), ms_ssim(image, picture), seconds))
    return points


def resumed(path: Path, head: dict[str, Any]) -> dict[tuple[str, int], Points]:
    """What a state file holds of the same codec; begins one where there is none."""
    if not path.exists():
        write_atomically(path, (json.dumps(head) + "\n").encode())
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    if json.loads(lines[0]) != head:
        raise UgicError(f"{path}: was begun with another codec or options; give another folder with -o")
    done: dict[tuple[str, int], Points] = {}
    for line in lines[1:]:
        try:
            values = json.loads(line)
        except ValueError:  # the last, cut off
            continue
        done[values["image"], values["effort"]] = [tuple(p) for p in values["points"]]
    return done


def in_decibels(curve: Curve) -> Curve:
    """A curve whose `psnr` is its MS-SSIM in dB."""
    return [{**point, "psnr": -10 * math.log10(1 - point["ms_ssim"])} for point in curve]


def summary(done: dict[tuple[str, int], Points], efforts: list[int]) -> dict[str, Any]:
    """By effort: the mean curve, BD-rates against effort 0, per image and of the means, and the time."""
    images = sorted({name for name, _ in done if all((name, effort) in done for effort in efforts)})
    curves = {effort: _curve([done[name, effort] for name in images]) for effort in efforts}
    result = {}
    for effort in efforts:
        each = [bd_rate(_curve([done[name, efforts[0]]]), _curve([done[name, effort]])) for name in images]
        ratios = [
            mine[3] / plain[3]
            for name in images
            for mine, plain in zip(done[name, effort], done[name, efforts[0]], strict=True)
        ]
        result[str(effort)] = {
            "bd_rate_psnr": bd_rate(curves[efforts[0]], curves[effort]),
            "bd_rate_ms_ssim": bd_rate(in_decibels(curves[efforts[0]]), in_decibels(curves[effort])),
            "bd_rate_psnr_by_image": dict(zip(images, each, strict=True)),
            "seconds": statistics.median(p[3] for name in images for p in done[name, effort]),
            "times_effort_0": statistics.median(ratios),
            "curve": curves[effort],
        }
    return {"images": len(images), "efforts": result}


def _curve(images: list[Points]) -> Curve:
    by_quality = {i + 1: [points[i][:3] for points in images] for i in range(len(images[0]))}
    return mean_curve(by_quality)


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.effort", description=__doc__)
    p.add_argument("folder", type=Path, help="folder of lossless PNG images, e.g. Kodak's")
    p.add_argument("-o", "--output", type=Path, default=Path("effort-output"), help="default: %(default)s")
    p.add_argument("--bundle", type=Path, help="default: the shipped one")
    p.add_argument("--every", type=int, default=1, metavar="N", help="each N-th image only")
    p.add_argument("--efforts", type=int, nargs="+", default=[0, *SCHEDULES], help="default: all")
    p.add_argument("--threads", type=int, default=1, help="default %(default)s")
    args = p.parse_args(arguments)
    try:
        codec = Codec.from_bundle(args.bundle, threads=args.threads)
        files = sorted(args.folder.glob("*.png"))[:: args.every]
        if not files:
            raise UgicError(f"{args.folder}: no PNG files there; give a folder of lossless images")
        make_folder(args.output, parents=True)
        state = args.output / "effort.jsonl"
        schedules = {str(effort): vars(schedule) for effort, schedule in SCHEDULES.items()}
        head = {"codec_id": codec.codec_id.hex(), "threads": args.threads, "schedules": schedules}
        done = resumed(state, head)
        for i, file in enumerate(files):
            for effort in args.efforts:
                if (file.name, effort) in done:
                    continue
                print(f"{file.name}, {i + 1} of {len(files)}, effort {effort}", flush=True)
                points = done[file.name, effort] = measure(codec, read_image(file), effort)
                with state.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"image": file.name, "effort": effort, "points": points}) + "\n")
        found = {key: points for key, points in done.items() if key[0] in {file.name for file in files}}
        result = {**head, **summary(found, args.efforts)}
        write_atomically(args.output / "effort.json", (json.dumps(result, indent=1) + "\n").encode())
    except UgicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for effort, row in result["efforts"].items():
        print(
            f"effort {effort}: PSNR {row['bd_rate_psnr']:+.2f} %  MS-SSIM {row['bd_rate_ms_ssim']:+.2f} %  "
            f"{row['seconds']:.2f} s a file, {row['times_effort_0']:.1f} times effort 0"
        )
    print(f"{result['images']} images, {args.threads} threads; wrote {args.output / 'effort.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
