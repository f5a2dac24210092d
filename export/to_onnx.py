"""`ugicm export CHECKPOINT [-o BUNDLE]` or `python -m export.to_onnx …`: a checkpoint to a bundle, checked.

Of a folder of checkpoints, `ugicm export DIR -o DIR` makes as many bundles and prints a table of them.

Writes the graphs, the integer hyper-synthesis with its proof, the entropy tables and the manifest, after every
graph has been compared with PyTorch in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from ugicm.calibration.exact.emit import to_onnx
from ugicm.calibration.exact.integer import CalibrationError, Settings, UnprovableError, make_integer
from ugicm.calibration.exact.ranges import prior_samples
from ugicm.export.checkpoint import CheckpointError, load, load_with_analysis
from ugicm.export.folder import SUFFIXES, checkpoints, export_folder, print_rows
from ugicm.export.forms.views import CONDITION, view_graph
from ugicm.export.graphs import Check, check_graph, export_graphs
from ugicm.export.guarding import Graphs, StrayingError, guarded_graphs
from ugicm.export.source import Source
from ugicm.export.tables import factorised_tables, latent_tables
from ugicm.export.write import golden_vectors, wanted, write_bundle
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.errors import UgicError
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.files.images import read_image
from ugicm.runtime.files.whole_folder import check_replaceable
from ugicm.runtime.graphs.views import view_weights
from ugicm.runtime.manifest import Join, Manifest
from ugicm.runtime.onnx_bytes.weights import graph_weights

BITS = {"weight_bits": (4, 8), "head_weight_bits": (4, 11), "activation_bits": (4, 8)}


class ExportError(Exception):
    """An export that must not be used; the message says why."""


def calibration_samples(source: Source, images: list[Path]) -> np.ndarray:
    """(N, Nz, h, w) integer `z`: of images at three qualities where there are any, else of the learned prior."""
    if not images:
        return prior_samples(source.z_probabilities, limit=source.z_probabilities.shape[1] // 2)
    samples = []
    for path in images:
        x = torch.from_numpy(pixels_of(source, path)).permute(2, 0, 1).float() / 255
        for quality in sorted({0, source.qualities // 2, source.qualities - 1}):
            samples.append(source.analyse(x, quality))
    height, width = (min(z.shape[axis] for z in samples) for axis in (2, 3))
    return np.concatenate([z[:, :, :height, :width] for z in samples])


def pixels_of(source: Source, path: Path) -> np.ndarray:
    """(height, width, 3) uint8 of the upper left of an image, up to 8 strides a side. Raises ExportError: too small."""
    pixels = read_image(path)
    height, width = (min(s // source.stride, 8) * source.stride for s in pixels.shape[:2])
    if not height or not width:
        raise ExportError(f"{path}: smaller than {source.stride}×{source.stride}; give larger calibration images")
    return pixels[:height, :width].copy()


def integer_hyper_synthesis(source: Source, samples: np.ndarray, **bits: int) -> ExactNetwork:
    """`h_s` as integers; `bits` are those fields of `Settings`. Raises CalibrationError without a proof."""
    h_s = source.hyper_synthesis
    assert h_s is not None
    settings = Settings(
        source.latent_channels,
        h_s.head,
        len(source.scales),
        source.scales,
        source.scales[:-1] if h_s.head == "linear" else None,
        source.z_probabilities.shape[1] // 2,
        **bits,
    )
    return make_integer(h_s.layers, samples, settings, h_s.medians)


def provable(source: Source, samples: np.ndarray, bits: dict[str, int]) -> dict[str, int]:
    """`bits` with the most activation bits, 8 to 6, that leave the widest layers a proof, unless they say themselves.

    Two samples decide: the bounds hardly depend on them, and choosing ranges on all takes minutes for wide networks.
    """
    if "activation_bits" not in bits:
        for activation_bits in (8, 7, 6):
            with contextlib.suppress(CalibrationError):
                integer_hyper_synthesis(source, samples[:2], **bits, activation_bits=activation_bits)
                return {**bits, "activation_bits": activation_bits}
    return bits


def proved(
    source: Source, images: list[Path], bits: dict[str, int], console: Console
) -> tuple[Source, ExactNetwork | None]:
    """A source with its `h_s` as integers; or its guarded form, where no bits that are allowed leave a proof.

    Raises:
        ExportError: it cannot be integers, and there is no guarded form.
    """
    samples = calibration_samples(source, images)
    try:
        bits = provable(source, samples, bits)
        exact = integer_hyper_synthesis(source, samples, **bits)
    except UnprovableError as error:
        if source.guarded is None:
            raise ExportError(f"the exact path was refused: {error}") from error
        reason = f"note: h_s stays in floats, under guarded rounding, for want of a proof: {error}"
        console.print(reason, soft_wrap=True)
        return source.guarded(), None
    except CalibrationError as error:
        raise ExportError(f"the exact path was refused: {error}") from error
    if bits.get("activation_bits", 8) < 8:
        console.print(f"note: the exact path has activations of {bits['activation_bits']} bits")
    return source, exact


def check_exact(model: bytes, exact: ExactNetwork, golden: dict[str, np.ndarray]) -> Check:
    """The `h_s` graph in ONNX Runtime against the integers: nothing may differ."""
    run = OnnxRuntime().load(model, "h_s")
    different = 0.0
    count = sum(name.startswith("z") for name in golden)
    for i in range(count):
        outputs = run({"z": golden[f"z{i}"].astype(np.float32)})
        for found, name in zip(outputs, ("scale_index", "mean"), strict=False):
            different += float(np.count_nonzero(found != golden[f"{name}{i}"]))
    nodes = len(onnx.load_model_from_string(model).graph.node)
    return Check(nodes, f"{count} golden vectors", different, 0.0)


def check_view(view: tuple[onnx.ModelProto, tuple[Join, ...]], general: bytes, source: Source) -> Check:
    """The view graph with a condition in its weights against the general graph with that condition as an input."""
    backend = OnnxRuntime()
    run, largest = backend.load(general, "g_s"), 0.0
    given = {t.name for t in view[0].graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    for _, vector in source.conditions.values():
        condition = vector[None].astype(np.float32)
        weights = view_weights(graph_weights(general, "g_s"), view[1], condition)
        folded = backend.load(view[0].SerializeToString(), "g_s", {n: w for n, w in weights.items() if n in given})
        example = source.graphs["g_s"].example(2, 3, 1)
        inputs = {n: v.numpy() for n, v in zip(source.graphs["g_s"].inputs, example, strict=True) if n != CONDITION}
        found, expected = folded(inputs)[0], run({**inputs, CONDITION: condition})[0]
        largest = max(largest, float(np.abs(found.astype(int) - expected).max()))
    return Check(len(view[0].graph.node), "2×3×1", largest, source.graphs["g_s"].tolerance)


def export_bundle(
    source: Source,
    output: Path,
    part: str = "both",
    calibration_images: list[Path] | None = None,
    bits: dict[str, int] | None = None,
    console: Console | None = None,
    double: bool = False,
) -> Manifest:
    """Writes the bundle of a source after every check has passed.

    `double` asks for the stages of a codec with context in double precision.

    Raises:
        OutputError: `output` is a file or holds something that is no bundle, or the disk refuses.
        ExportError: a graph differs from PyTorch by more than its tolerance, or cannot be proved exact.
    """
    console = console or Console(quiet=True)
    check_replaceable(output)
    exact, golden = None, dict[str, np.ndarray]()
    graphs: Graphs = {}
    checks: dict[str, Check] = {}
    if source.hyper_synthesis is not None:
        source, exact = proved(source, calibration_images or [], bits or {}, console)
    if exact is not None:
        assert source.hyper_synthesis is not None
        golden = golden_vectors(exact, source.z_probabilities)
        h_s = to_onnx(exact, "qdq").SerializeToString()
        outputs = ("scale_index", "mean") if source.hyper_synthesis.has_means else ("scale_index",)
        graphs["h_s"], checks["h_s"] = (h_s, ("z",), outputs), check_exact(h_s, exact, golden)
    if double and source.schedule is None:
        raise ExportError(
            "--stages fp64 is of codecs with context, and this one's symbols need no stages; leave it out"
        )
    names = wanted(part) + (source.schedule.graphs if source.schedule is not None else ())
    traced = {name: graph for name, graph in source.graphs.items() if name in names}
    for name, model in export_graphs(traced):
        graph = traced[name]
        graphs[name] = (model.SerializeToString(), graph.inputs, graph.outputs)
        checks[name] = check_graph(name, model, graph)
    view = view_graph(onnx.load_model_from_string(graphs["g_s"][0])) if "g_s" in graphs else None
    if view is not None:
        general = source.graphs["g_s"]
        inputs = tuple(name for name in general.inputs if name != CONDITION)
        graphs["g_s.view"] = (view[0].SerializeToString(), inputs, general.outputs)
        checks["g_s.view"] = check_view(view, graphs["g_s"][0], source)
    _print_checks(console, checks, {name: len(data) for name, (data, _, _) in graphs.items()})
    if exact is not None:
        _print_proof(console, exact)
    schedule, doubled = None, False
    if source.schedule is not None:
        pictures = [pixels_of(source, path) for path in calibration_images or ()]
        try:
            guarded = guarded_graphs(source, graphs, pictures, console, double)
        except StrayingError as error:
            raise ExportError(str(error)) from error
        schedule, golden = guarded.schedule, guarded.golden
        graphs |= guarded.graphs
        checks |= guarded.checks
        if doubled := bool(guarded.graphs):
            _print_checks(console, guarded.checks, {name: len(graphs[name][0]) for name in guarded.checks})
    failed = [f"{name} by {c.difference:g} (tolerance {c.tolerance:g})" for name, c in checks.items() if not c.passed]
    if failed:
        raise ExportError(f"graphs differ from PyTorch: {', '.join(failed)}; nothing was written")
    rule = (source.table_tail, source.table_floor)
    if source.y_probabilities is None:
        widths = source.scales[:, None] if source.widths is None else source.widths
        shares = np.ones_like(widths) if source.shares is None else source.shares
        y_tables = latent_tables(shares, widths, source.skip_below, *rule)
    else:
        y_tables = factorised_tables(source.y_probabilities, "y", *rule)
    tables = {
        **y_tables,
        **factorised_tables(source.z_probabilities, "z", *rule),
        "gain": source.gain.astype(np.float32),
        "inverse_gain": source.inverse_gain.astype(np.float32),
        **{f"condition_{name}": v.astype(np.float32) for name, (_, v) in source.conditions.items()},
    }
    fields = {
        "architecture": source.architecture,
        "precision": "fp32",
        "stride": source.stride,
        "latent_stride": source.latent_stride,
        "latent_channels": source.latent_channels,
        "hyper_channels": source.hyper_channels,
        "qualities": source.qualities,
        "conditions": {name: beta for name, (beta, _) in source.conditions.items()},
        "context": source.context,
        "context_digest": source.context_digest,
        "model": source.model | ({"stages": "fp64"} if doubled else {}),
        "views": () if view is None else view[1],
        "schedule": schedule,
    }
    return write_bundle(output, graphs, tables, exact, golden, fields, part)


def _print_checks(console: Console, checks: dict[str, Check], sizes: dict[str, int]) -> None:
    table = Table("graph", "nodes", "kB", "compared at", "largest difference", "tolerance", "")
    for name, c in checks.items():
        verdict = "ok" if c.passed else "DIFFERS"
        size = f"{sizes[name] / 1000:.0f}"
        table.add_row(name, str(c.nodes), size, c.sizes, f"{c.difference:.2g}", f"{c.tolerance:g}", verdict)
    console.print(table)


def _print_proof(console: Console, exact: ExactNetwork) -> None:
    table = Table("exact layer", "largest possible |accumulator|", "of 2^24")
    for name, bound in exact.bounds().items():
        table.add_row(name, str(bound), f"{bound / 2**24:.1%}")
    console.print(table)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="ugicm export", description=__doc__)
    p.add_argument("checkpoint", type=Path, help="a checkpoint, or a folder of them")
    p.add_argument("-o", "--output", type=Path, help="the bundle's folder (default: CHECKPOINT without its suffix)")
    p.add_argument("--picture", type=Path, help="of a folder: code this image with each bundle, for bytes and times")
    p.add_argument("--part", choices=("encoder", "decoder", "both"), default="both", help="the half to write")
    p.add_argument("--arch", metavar="NAME", help="which CompressAI model it is; default: told by its keys")
    p.add_argument(
        "--analysis",
        type=Path,
        metavar="CHECKPOINT",
        help="of the same codec with a larger g_a, which encoding with effort uses",
    )
    p.add_argument(
        "--calibration-images",
        type=Path,
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="ranges from these images",
    )
    p.add_argument(
        "--stages",
        choices=("fp32", "fp64"),
        default="fp32",
        help="of a codec with context; fp64: guards that cost less, on CPUs alone; taken where fp32 will not do",
    )
    for name, (low, high) in BITS.items():
        option = f"--{name.replace('_', '-')}"
        p.add_argument(option, type=int, choices=range(low, high + 1), metavar=f"{low}..{high}", help="exact path")
    return p.parse_args(arguments)


def _folder(args: argparse.Namespace, bits: dict[str, int]) -> int:
    """Exports the checkpoints of a folder; returns the exit status."""
    files, output = checkpoints(args.checkpoint), args.output or args.checkpoint
    fault = ""
    if args.arch is not None or args.analysis is not None:
        fault = f"--{'analysis' if args.arch is None else 'arch'} is of one checkpoint; export it by itself"
    elif args.picture is not None and args.part != "both":
        fault = f"--picture needs both halves of a codec; leave --part {args.part} out"
    elif not files:
        fault = f"{args.checkpoint}: holds no checkpoint; they end in {', '.join(SUFFIXES)}"
    elif output.exists() and not output.is_dir():
        fault = f"{output}: is a file; name a folder with -o"
    if fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2

    def export(source: Source, bundle: Path) -> Manifest:
        return export_bundle(source, bundle, args.part, args.calibration_images, bits, double=args.stages == "fp64")

    try:
        picture = None if args.picture is None else read_image(args.picture)
    except UgicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = export_folder(files, output, export, (CheckpointError, ExportError), picture)
    return print_rows(rows, picture is not None)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    bits = {name: value for name in BITS if (value := getattr(args, name)) is not None}
    if args.checkpoint.is_dir():
        return _folder(args, bits)
    output = args.output or args.checkpoint.with_name(args.checkpoint.name.removesuffix(".tar")).with_suffix("")
    if output == args.checkpoint:
        output = args.checkpoint.with_name(args.checkpoint.name + ".bundle")
    started = time.perf_counter()
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120)
    try:
        if args.analysis is not None and args.arch is not None:
            raise CheckpointError("--arch is of foreign checkpoints, --analysis of our own; leave one out")
        source = (
            load_with_analysis(args.checkpoint, args.analysis) if args.analysis else load(args.checkpoint, args.arch)
        )
        model = source.model
        console.print(f"{source.architecture}: {model.get('parameters', 0):,} parameters, ", end="")
        kmac = model.get("kmac_per_pixel", {})
        console.print(f"{kmac.get('encode', 0)} kMAC/pixel to encode, {kmac.get('decode', 0)} to decode")
        for note in source.notes:
            console.print(f"note: {note}")
        manifest = export_bundle(
            source,
            output,
            args.part,
            args.calibration_images,
            bits,
            console,
            args.stages == "fp64",
        )
    except (CheckpointError, ExportError, UgicError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    print(
        f"success {time.perf_counter() - started:.1f} s, codec {manifest.codec_id}, saved as {output} ({size:.1f} MB)"
    )
    verb = "decode FILE.ugic -o OUT.png" if args.part == "decoder" else "encode IMAGE -o OUT.ugic"
    print(f"next: ugicm {verb} --bundle {shlex.quote(str(output))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
