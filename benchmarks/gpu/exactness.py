"""Exactness: every runtime's scale indexes and means against the integers in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.backends import cuda_exact, open_gpu
from benchmarks.gpu.rows import Bench
from ugicm.runtime.admission import Exact, graph_runner
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.exact_reference import reference_runner


def exactness(bench: Bench, bundle: Bundle, graphs: dict[str, DeviceGraphs]) -> None:
    """Scale indexes and means of every runtime against the integers in numpy: how many differ."""
    network = bundle.exact
    if network is None:
        bench.add("exactness", "h_s", "", "", None, "", "this codec has no exact path")
        return
    rng = np.random.default_rng(3)
    draws = [bundle.golden[name].astype(np.int32) for name in sorted(bundle.golden) if name.startswith("z")]
    shape = (1, network.z_channels, 2, 3) if bench.args.cpu else (1, network.z_channels, 17, 30)
    for spread in (1, 2, 4, 16) * (1 if bench.args.cpu else 3):
        z = np.rint(rng.normal(0, spread, shape))
        draws.append(np.clip(z, -network.input_limit, network.input_limit).astype(np.int32))
    reference = reference_runner(network)
    expected = [reference(z) for z in draws]
    count = sum(index.size for index, _ in expected)
    for subject, make in exact_runners(bench, bundle, graphs, network):
        with bench.attempt("exactness", subject):
            bench.on_time()
            run, different, means = make(), 0, 0
            for z, (index, mean) in zip(draws, expected, strict=True):
                found, found_mean = run(z)
                different += int(np.count_nonzero(found != index))
                if mean is not None:
                    means += int(np.count_nonzero(np.asarray(found_mean) != mean))
            bench.add(
                "exactness", subject, "", "scale indexes that differ", different, f"of {count:,}", f"means: {means}"
            )


def exact_runners(
    bench: Bench, bundle: Bundle, graphs: dict[str, DeviceGraphs], network: ExactNetwork
) -> Iterator[tuple[str, Callable[[], Exact]]]:
    """(name, what opens it) of every way to run the exact path."""
    device = "cpu" if bench.args.cpu else "cuda"
    yield "onnxruntime (CPU)", lambda: graph_runner(bundle, OnnxRuntime())
    for tf32 in (False, True):
        yield f"torch ({device}), TF32 {'on' if tf32 else 'off'}", lambda t=tf32: torch_runner(network, device, t)
    for tf32 in (False, True):
        for form, made in (("qdq", None), ("float", graphs.get("fp32"))):
            name = f"onnxruntime-cuda, {form} form, TF32 {'on' if tf32 else 'off'}"
            yield name, lambda t=tf32, g=made: graph_runner(bundle, cuda_exact(g, t))
    for package in ("tensorrt", "tensorrt-rtx"):
        yield package, lambda p=package: graph_runner(bundle, open_gpu(p, graphs, "fp32"))


def torch_runner(network: ExactNetwork, device: str, tf32: bool) -> Exact:
    """The integers as PyTorch convolutions of integer-valued floats."""
    import torch
    from torch.nn import functional

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(array.astype(np.float32)).to(device)

    layers = [
        (
            tensor(la.weight),
            *(tensor(v)[:, None, None] for v in (la.bias, np.exp2(-la.shift.astype(float)), la.low, la.high)),
            la,
        )
        for la in network.layers
    ]

    def run(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        try:
            x = tensor(z)
            if network.ones:
                x = torch.cat([x, torch.full_like(x[:, :1], network.ones)], 1)
            for weight, bias, scale, low, high, layer in layers:
                x = functional.conv2d(x, weight, padding=weight.shape[2] // 2) + bias
                x = torch.minimum(torch.maximum(torch.round(x * scale), low), high)
                if layer.table is not None:
                    x = tensor(layer.table)[(x - low[0]).long()]
                x = functional.pixel_shuffle(x, layer.upsample) if layer.upsample > 1 else x
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        scales, means = x[:, : network.scale_channels], x[:, network.scale_channels :]
        if network.scale_table is not None:
            scales = tensor(network.scale_table)[scales.long()]
        index = scales.to(torch.uint8).cpu().numpy()
        return index, means.cpu().numpy() * 2.0**-network.mean_fraction_bits if network.mean_channels else None

    return run
