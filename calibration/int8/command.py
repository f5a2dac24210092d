"""`python -m ugicm.calibration.int8 BUNDLE IMAGE… -o OUT`: a bundle whose transforms compute in 8-bit integers.

Quantises the analysis and the synthesis on what the codec computes from the images, over all conditions and
qualities, and keeps in float the layers whose quantisation costs most, until the loss in rate and distortion is
tolerated. Entropy path and codec id stay: files of either bundle decode in the other.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm.calibration.int8.graph import FORMS, FloatGraph, Step
from ugicm.calibration.int8.int8_bundle import check_free, int8_bundle, view_model, write
from ugicm.calibration.int8.samples import Cache, Coded, code_all, conditions_of
from ugicm.calibration.int8.search import STRENGTHS, Found, Side, analysis_loss, prepare, search, synthesis_loss
from ugicm.runtime.backends import Backend, Graph
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.codec import Codec
from ugicm.runtime.commands.cli import Parser, run
from ugicm.runtime.errors import ImageError, UsageError
from ugicm.runtime.files.images import read_image, readable_suffixes
from ugicm.runtime.measures.metrics import psnr

SIDES = {"analysis": ("g_a", "h_a"), "synthesis": ("g_s_trunk", "g_s")}
QUALITIES_AN_IMAGE = 3
LEAST_TO_SPLIT = 8
"""Images from which on ranges are measured on three quarters and judged on the rest."""
TIMED = (512, 768)


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantises what the command line names. Returns the exit status."""
    parser = Parser(prog="python -m ugicm.calibration.int8", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a float bundle, both parts")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, or folders of files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder of the new bundle")
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="cpu",
        help="cpu: what ONNX Runtime makes integer kernels of; tensorrt: what TensorRT reads; fp8: FP8 (E4M3) in place "
        "of integers, for TensorRT; default cpu",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.08,
        metavar="DB",
        help="PSNR that each of analysis and synthesis may cost at equal bytes, default %(default)s dB",
    )
    parser.add_argument("--count", type=int, default=32, metavar="N", help="images used of those given, default 32")
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="of the middle that is used, default 256")
    parser.add_argument("--weight-bits", type=int, choices=(7, 8), default=8, help="default 8")
    parser.add_argument("--threads", type=int, metavar="N", help="of ONNX Runtime; default: its choice")
    parser.add_argument(
        "--repeat",
        type=int,
        default=15,
        metavar="N",
        help="runs of each transform whose times are compared in the end, default %(default)s; 0: no times",
    )
    return run(parser, _calibrate, arguments)


def _calibrate(options: argparse.Namespace) -> int:
    if not 0 < options.tolerance < 10 or options.count < 1 or options.size < 64 or options.repeat < 0:
        raise UsageError(
            "--tolerance must lie between 0 and 10, --count be at least 1, --size at least 64, --repeat at least 0"
        )
    check_free(options.output)
    bundle = Bundle.open(options.bundle)
    if bundle.manifest.precision != "fp32":
        raise UsageError(f"{options.bundle}: is an {bundle.manifest.precision} bundle already; give the float one")
    if options.output.resolve() == options.bundle.resolve():
        raise UsageError(f"{options.output}: this output would replace the input; choose another name")
    images = [_middle(read_image(path), options.size) for path in find_images(options.images, options.count)]
    console, started = Console(), time.perf_counter()
    backend = Cache(OnnxRuntime(threads=options.threads, level=level_for(options.form)))
    everything = [
        code_all(bundle, backend, [image], chosen_qualities(i, bundle.manifest.qualities))
        for i, image in enumerate(images)
    ]
    # Ranges that fit their own images too well would hide what they clip: other images judge them.
    judging = [i % 4 == 3 or len(images) < LEAST_TO_SPLIT for i in range(len(images))]
    measured = [c for i, some in enumerate(everything) for c in some if not judging[i] or len(images) < LEAST_TO_SPLIT]
    coded = [c for i, some in enumerate(everything) for c in some if judging[i]]
    models: dict[str, bytes] = {}
    note: dict[str, object] = {"form": options.form, "weight_bits": options.weight_bits}
    for title, names in SIDES.items():
        floats = float_graphs(bundle, names, options.form)
        side, found = _side(bundle, title, floats, measured, coded, backend, options)
        _print_side(console, title, side, found, options.tolerance)
        models.update(side.write(found.choice))
        floating = sorted(f"{g}/{n}" for g, n in side.everything - found.choice)
        note[title] = {"loss_db": round(found.loss, 4), "float_layers": floating}
    result = int8_bundle(bundle, models, note, side.precision)
    _print_codec(console, bundle, result, coded, backend)
    if options.form == "cpu" and options.repeat:
        _print_times(console, bundle, result, images[0], options.repeat)
    size = write(result, options.output)
    console.print(
        f"[green]success[/] {time.perf_counter() - started:.1f} s, codec {result.manifest.codec_id}, "
        f"saved as {options.output} ({size / 1e6:.1f} MB)"
    )
    output = shlex.quote(str(options.output))
    engines = f"python -m ugicm.export.to_tensorrt {output} --precision {result.manifest.precision}"
    encode = f"ugicm encode IMAGE -o OUT.ugic --bundle {output}"
    print(f"next: {encode if options.form == 'cpu' else engines}")
    return 0


def float_graphs(bundle: Bundle, names: Sequence[str], form: str) -> dict[str, FloatGraph]:
    """Graphs in the order they run.

    On a CPU a condition is folded into weights, which integers no longer allow: there every view gets a graph of its
    own, "g_s.human", and `g_s`, for all other conditions, stays in float.
    """
    floats = {n: FloatGraph.parse(bundle.graph(n)[1]) for n in names if n in bundle.manifest.graphs}
    if form == "cpu" and "g_s" in floats and bundle.condition_vectors:
        general = floats.pop("g_s")
        for name, vector in bundle.condition_vectors.items():
            floats[f"g_s.{name}"] = FloatGraph.parse(view_model(bundle, vector))
        floats["g_s"] = general
    return floats


def level_for(form: str) -> str:
    """ONNX Runtime's optimisations that leave a form as it is: beyond these, it makes integer kernels of FP8 too."""
    return "basic" if form == "fp8" else "all"


def find_images(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` files, evenly from those named and those in the folders named.

    Raises:
        ImageError: a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in readable_suffixes())
            if not inside:
                raise ImageError(f"{path}: holds no images; name the files themselves")
            found += inside
        else:
            found.append(path)
    return [found[i * len(found) // count] for i in range(count)] if len(found) > count else found


def chosen_qualities(index: int, qualities: int) -> list[int]:
    """The qualities that an image is coded at: a few, spread, and others than those of the image before it."""
    wanted = min(QUALITIES_AN_IMAGE, qualities)
    return sorted({1 + (index + i * qualities // wanted) % qualities for i in range(wanted)})


def _middle(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (max(0, (n - size) // 2) for n in image.shape[:2])
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _side(
    bundle: Bundle,
    title: str,
    floats: Mapping[str, FloatGraph],
    measured: Sequence[Coded],
    coded: Sequence[Coded],
    backend: Backend,
    options: argparse.Namespace,
) -> tuple[Side, Found]:
    """The best equalisation of one half with ranges from `measured`, and the layers to quantise, judged on `coded`."""
    loss = synthesis_loss(coded, backend) if title == "synthesis" else analysis_loss(bundle, coded, backend)
    # z is rounded after h_a anyway: to integers, which are its quantised form while they fit.
    exact = bundle.exact
    integers = options.form != "fp8" and exact is not None and exact.input_limit <= 127
    natural = {"z": Step(1.0, 0 if options.form == "tensorrt" else 128)} if integers else {}
    tried = []
    for strength in STRENGTHS:
        side = prepare(floats, measured, backend, options.form, options.weight_bits, strength, natural)
        tried.append((loss(side.write(side.everything)), strength, side))
    side = min(tried, key=lambda t: t[:2])[2]
    return side, search(side, loss, options.tolerance)


def _print_side(console: Console, title: str, side: Side, found: Found, tolerance: float) -> None:
    table = Table("layer", "share of cost", "loss alone, dB", "", title=f"{title}: sensitivity")
    work = sum(side.weight.values())
    for graph, layers in side.graphs.items():
        for layer in layers.layers:
            key = (graph, layer.name)
            if key not in found.alone:
                continue
            kind = side.precision if key in found.choice else "[yellow]float[/]"
            table.add_row(f"{graph}: {layer.name}", f"{side.weight[key] / work:.1%}", f"{found.alone[key]:+.4f}", kind)
    console.print(table)
    floating = len(side.everything) - len(found.choice)
    console.print(
        f"{title}: everything in {side.precision.upper()} loses {found.all_loss:.3f} dB; with {floating} "
        f"of {len(side.everything)} layers in float {found.loss:.3f} dB (tolerance {tolerance:g})"
    )


def _print_codec(console: Console, bundle: Bundle, result: Bundle, coded: Sequence[Coded], backend: Backend) -> None:
    """Both halves together through the real codec, and either bundle's files in the other."""
    name = result.manifest.precision
    before = code_all_again(bundle, bundle, coded, backend)
    table = Table("encoded by", "decoded by", "bpp", "PSNR dB", title="through the codec, images that judged")
    for names, pair in {
        ("fp32", "fp32"): before,
        ("fp32", name): code_all_again(bundle, result, coded, backend),
        (name, "fp32"): code_all_again(result, bundle, coded, backend),
        (name, name): code_all_again(result, result, coded, backend),
    }.items():
        table.add_row(*names, f"{pair[0]:.4f}", f"{pair[1]:.3f}")
    console.print(table)


def code_all_again(encoder: Bundle, decoder: Bundle, coded: Sequence[Coded], backend: Backend) -> tuple[float, float]:
    """Mean bpp and PSNR, over images, qualities and conditions, of one bundle's files decoded by another."""
    write_, read = Codec(encoder, backend), Codec(decoder, backend)
    rates, qualities = [], []
    for c in coded:
        data = write_.encode(c.image, c.quality)
        rates.append(8 * len(data) / (c.image.shape[0] * c.image.shape[1]))
        views = read.decode_views(data, conditions_of(read))
        qualities += [psnr(view, c.image) for view in views]
    return float(np.mean(rates)), float(np.mean(qualities))


def _print_times(console: Console, bundle: Bundle, result: Bundle, image: np.ndarray, count: int) -> None:
    """Both bundles' transforms on the same image, alternating, and what to ship."""
    times = paired_times(bundle, result, image, count)
    table = Table(
        "graph", "fp32 ms", "int8 ms", "int8 is faster by", title=f"{TIMED[1]}×{TIMED[0]}, one thread, medians"
    )
    slower = []
    for name, (floating, integer) in times.items():
        table.add_row(name, f"{floating:.2f}", f"{integer:.2f}", f"{floating / integer:.2f}×")
        slower += [name] if integer >= floating else []
    console.print(table)
    total = [sum(t[i] for t in times.values()) for i in (0, 1)]
    verdict = "ship INT8" if total[1] < total[0] else "ship fp32"
    advice = f"; in fp32 these are no slower: {', '.join(slower)}" if slower and verdict == "ship INT8" else ""
    console.print(
        f"on this machine: {verdict}; its transforms take {total[1] / total[0]:.2f} of the time of fp32{advice}"
    )


def paired_times(bundle: Bundle, result: Bundle, image: np.ndarray, count: int = 15) -> dict[str, tuple[float, float]]:
    """Graph → median milliseconds of the float and of the INT8 bundle on 768×512 pixels made of an image.

    Graphs alternate; one thread, its own processor time, so that other work on the machine counts little.
    """
    tall, wide = (-(-n // m) for n, m in zip(TIMED, image.shape[:2], strict=True))
    large = np.ascontiguousarray(np.tile(image, (tall, wide, 1))[: TIMED[0], : TIMED[1]])
    backend = OnnxRuntime(threads=1)
    runs = [_folded(b, backend) for b in (bundle, result)]
    names = [name for side in SIDES.values() for name in side if name in bundle.manifest.graphs]
    quality = (bundle.manifest.qualities - 1) // 2
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for i in range(count + 2):
        for which, graphs in enumerate(runs):
            made = {
                "image": large[None],
                "gain": bundle.gain[[quality]],
                "inverse_gain": bundle.inverse_gain[[quality]],
            }
            for name in names:
                entry = bundle.manifest.graphs[name]
                feed = {k: made[k] for k in entry.inputs if k != "condition"}
                before = time.thread_time()
                made[entry.outputs[0]] = graphs[name](feed)[0]
                if i >= 2:
                    times[name][which].append((time.thread_time() - before) * 1e3)
                if name == "g_a":
                    made["y_hat"] = np.rint(made["y"])
    return {name: (statistics.median(a), statistics.median(b)) for name, (a, b) in times.items()}


def _folded(bundle: Bundle, backend: Backend) -> dict[str, Graph]:
    """The transforms as the codec runs them on a CPU: `g_s` for the first condition."""
    loaded = {}
    for name in (n for names in SIDES.values() for n in names if n in bundle.manifest.graphs):
        model = bundle.graph(name)[1]
        if "condition" in bundle.manifest.graphs[name].inputs:
            model = view_model(bundle, next(iter(bundle.condition_vectors.values())))
        loaded[name] = backend.load(model, name)
    return loaded


if __name__ == "__main__":
    sys.exit(main())
