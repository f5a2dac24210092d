"""`python -m benchmarks.exactness --symbols 1e9`: the exact path on every backend at hand, integer by integer.

The same `z` (random over its whole range, narrow, extreme, and real, of images, where a folder is given) goes through
PyTorch (float32, float64, oneDNN on and off, one and two threads, CUDA where there is one) and ONNX Runtime (every
optimisation level, one and two threads, batch 1 and 4; CUDA where there is one), and each scale index and mean is
compared with the first. Progress is saved, so that a long run can continue.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.runtime import exact_reference
from ugicm.runtime.admission import graph_runner
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime
from ugicm.runtime.backends.providers import providers
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.encoder import analysis
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.files.images import read_image

Outputs = tuple[np.ndarray, np.ndarray | None]
Runner = Callable[[np.ndarray], Outputs]


def torch_runner(network: ExactNetwork, dtype: torch.dtype, threads: int, onednn: bool, device: str = "cpu") -> Runner:
    """The integers as floats in PyTorch: convolution, power of two, round, clip, pixel shuffle."""
    layers = []
    for layer in network.layers:
        column = [
            torch.from_numpy(v.astype(np.float64)) for v in (2.0 ** -layer.shift.astype(float), layer.low, layer.high)
        ]
        shift, low, high = (v.to(device, dtype)[None, :, None, None] for v in column)
        weight, bias = (torch.from_numpy(v.astype(np.float64)).to(device, dtype) for v in (layer.weight, layer.bias))
        table = None if layer.table is None else torch.from_numpy(layer.table.astype(np.float64)).to(device, dtype)
        layers.append((weight, bias, shift, low, high, table, layer.upsample))

    def run(z: np.ndarray) -> Outputs:
        torch.set_num_threads(threads)
        with torch.backends.mkldnn.flags(enabled=onednn), torch.no_grad():
            x = torch.from_numpy(z).to(device, dtype)
            if network.ones:
                x = torch.cat([x, torch.full_like(x[:, :1], network.ones)], 1)
            for weight, bias, shift, low, high, table, upsample in layers:
                x = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
                x = torch.minimum(torch.maximum(torch.round(x * shift), low), high)
                if table is not None:
                    x = table[(x - low.flatten()[0]).long()]
                if upsample > 1:
                    x = F.pixel_shuffle(x, upsample)
        m = network.scale_channels
        scales = x[:, :m].to(torch.uint8) if network.scale_table is None else x[:, :m].long()
        index = scales.cpu().numpy()
        if network.scale_table is not None:
            index = network.scale_table[index]
        if not network.mean_channels:
            return index, None
        return index, (x[:, m:].float() * 2.0**-network.mean_fraction_bits).cpu().numpy()

    return run


def batched(run: Runner, batch: int) -> Runner:
    """Runs several images at a time."""

    def all_images(z: np.ndarray) -> Outputs:
        parts = [run(z[i : i + batch]) for i in range(0, len(z), batch)]
        means = None if parts[0][1] is None else np.concatenate([p[1] for p in parts if p[1] is not None])
        return np.concatenate([p[0] for p in parts]), means

    return all_images


def runners(bundle: Bundle) -> Iterator[tuple[str, Runner]]:
    """Every configuration at hand; the first is what the others are compared with."""
    assert bundle.exact is not None
    yield "reference: numpy, float64 matrix products of integers", bundle_reference(bundle.exact)
    for provider in providers():
        for level in LEVELS:
            for threads, batch in ((1, 1), (2, 4)):
                backend = OnnxRuntime(provider, threads, level)
                label = f"{backend.name}, {level}, {threads} threads, batch {batch}"
                yield label, batched(graph_runner(bundle, backend), batch)
    for dtype in (torch.float32, torch.float64):
        for threads, onednn in ((1, True), (2, True), (2, False)):
            label = f"PyTorch {dtype}, {threads} threads, oneDNN {'on' if onednn else 'off'}"
            yield label, torch_runner(bundle.exact, dtype, threads, onednn)
    if torch.cuda.is_available():
        for tf32 in (False, True):
            torch.backends.cudnn.allow_tf32 = tf32
            yield f"PyTorch CUDA, TF32 {tf32}", torch_runner(bundle.exact, torch.float32, 1, True, "cuda")


def bundle_reference(network: ExactNetwork) -> Runner:
    unit = np.float32(2.0**-network.mean_fraction_bits)

    def run(z: np.ndarray) -> Outputs:
        index, means = exact_reference.run(network, z)
        return index, None if means is None else means.astype(np.float32) * unit

    return run


def real_z(codec: Codec, folder: Path) -> list[np.ndarray]:
    """(1, Nz, h, w) `z` of every image of a folder at every quality."""
    out = []
    for path in sorted(folder.glob("*.png")):
        image = read_image(path)
        for quality in range(1, codec.qualities + 1):
            _, z = analysis.analysed(codec.networks, image, quality)
            out.append(z)
    return out


def batches(bundle: Bundle, real: list[np.ndarray], start: int) -> Iterator[np.ndarray]:
    """Endless (4, Nz, 16, 16) integers: in turn uniform over the range, narrow, extreme, and real."""
    assert bundle.exact is not None
    limit, channels = bundle.exact.input_limit, bundle.manifest.hyper_channels
    step = start
    while True:
        rng = np.random.default_rng((99, step))
        shape = (4, channels, 16, 16)
        kind = step % 4
        if kind == 0:
            z = rng.integers(-limit, limit + 1, shape)
        elif kind == 1:
            z = np.rint(rng.normal(0, rng.uniform(0.3, 8, (1, channels, 1, 1)), shape)).clip(-limit, limit)
        elif kind == 2 or not real:
            z = rng.choice([-limit, 0, limit], shape)
        else:
            picked = real[int(rng.integers(len(real)))]
            tiled = np.tile(picked, (4, 1, -(-16 // picked.shape[2]), -(-16 // picked.shape[3])))
            z = tiled[:, :, :16, :16]
        yield z.astype(np.int32)
        step += 1


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    p.add_argument("--bundle", type=Path, default=DEFAULT)
    p.add_argument("--images", type=Path, help="folder of PNG images for real z")
    p.add_argument("--symbols", type=float, default=1e7, help="symbols to compare on every backend (default: 1e7)")
    p.add_argument("--state", type=Path, help="JSON file to save progress in and continue from")
    args = p.parse_args(arguments)
    console = Console()
    bundle = Bundle.open(args.bundle)
    codec = Codec.from_bundle(args.bundle)
    real = real_z(codec, args.images) if args.images else []
    state = {"codec_id": bundle.manifest.codec_id, "step": 0, "symbols": 0, "different": {}}
    if args.state and args.state.exists():
        saved = json.loads(args.state.read_text())
        state = saved if saved["codec_id"] == state["codec_id"] else state
    everything = list(runners(bundle))
    different: dict[str, int] = {label: state["different"].get(label, 0) for label, _ in everything}
    saved_at = time.monotonic()
    for z in batches(bundle, real, state["step"]):
        if state["symbols"] >= args.symbols:
            break
        index, means = everything[0][1](z)
        for label, run in everything[1:]:
            other_index, other_means = run(z)
            different[label] += int(np.count_nonzero(index != other_index))
            if means is not None and other_means is not None:
                different[label] += int(np.count_nonzero(means != other_means))
        state.update(step=state["step"] + 1, symbols=state["symbols"] + index.size, different=different)
        if args.state and time.monotonic() - saved_at > 30:
            args.state.write_text(json.dumps(state))
            saved_at = time.monotonic()
    if args.state:
        args.state.write_text(json.dumps(state))
    table = Table("backend", "different scale indexes or means")
    for label, count in different.items():
        table.add_row(label, str(count))
    console.print(table)
    console.print(f"codec {state['codec_id']}: {state['symbols']:,} symbols on each, {len(real)} real z")
    return 1 if any(different.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
