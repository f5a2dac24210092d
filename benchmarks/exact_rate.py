"""The cost of integers: the rate of `y` under the integer hyper-synthesis, against the float one's.

    python -m benchmarks.exact_rate CHECKPOINT IMAGES CALIBRATION_IMAGES

For each quality: bits per pixel of `y` with the float network, and how much the integer networks change
them, with ranges from the learned prior (no images) and from the calibration images. Two figures, in percent:

    measured   ideal code length of the real symbols. It has luck in it: an index that rounds the
               other way everywhere in a channel gains or loses to first order where the model is not at its
               optimum.
    expected   the divergence from the float network's own Gaussians, less what rounding its indexes costs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ugicm.calibration.exact.integer import FloatLayer, Settings, float_run, make_integer
from ugicm.calibration.exact.ranges import default_scales, excess_bits, prior_samples
from ugicm.models.entropy import bottleneck_probabilities
from ugicm.models.ugicm import STRIDE, UGICM
from ugicm.runtime import exact_reference
from ugicm.runtime.exact import ExactNetwork
from ugicm.training.checkpoint import rebuild
from ugicm.training.data import image_files, read_rgb

WIDTHS = {"7/10/8": (7, 10, 8), "8/10/8": (8, 10, 8), "7/10/7": (7, 10, 7), "9/10/10": (9, 10, 10)}
"""Weight bits of the hidden layers and of the last, activation bits."""


class Coded(NamedTuple):
    """One image at one quality."""

    quality: int
    pixels: int
    y: torch.Tensor
    z: NDArray[np.int32]
    reference: NDArray[np.float64]


def float_layers(model: UGICM) -> list[FloatLayer]:
    """The layers of a `fast` hyper-synthesis."""
    convolutions = [layer for layer in model.h_s.children() if isinstance(layer, torch.nn.Conv2d)]
    layers = []
    for i, conv in enumerate(convolutions):
        weight, bias = (t.detach().numpy() for t in (conv.weight, conv.bias) if t is not None)
        last = i + 1 == len(convolutions)
        layers.append(FloatLayer(weight, bias, "none" if last else "relu", upsample=1 if last else 2))
    return layers


def latents(model: UGICM, files: Sequence[Path], qualities: Sequence[int]) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Quality, pixels and `y` of each image, cropped to the stride, at each quality."""
    for path in files:
        image = torch.from_numpy(read_rgb(path).copy()).permute(2, 0, 1)[None].float() / 255
        height, width = (side // STRIDE * STRIDE for side in image.shape[2:])
        for quality in qualities:
            with torch.no_grad():
                y = model.analyse(image[:, :, :height, :width], torch.tensor([quality]))
            yield quality, height * width, y


def hyper_latents(model: UGICM, y: torch.Tensor) -> NDArray[np.int32]:
    with torch.no_grad():
        return torch.round(model.h_a(y)).clamp(-127, 127).numpy().astype(np.int32)


def symbol_bits(model: UGICM, y: torch.Tensor, index: NDArray[np.integer], means: NDArray[np.floating]) -> float:
    """Ideal code length of the symbols of `y` under the model's distributions, at most 24 bits each."""
    with torch.no_grad():
        y_hat, refined = model.quantise(y, torch.from_numpy(means.astype(np.float32)))
        symbols = torch.round(y_hat - refined).double()
        likelihood = model.latent_model.double()(symbols, torch.zeros_like(symbols), torch.from_numpy(index).double())
    return float(-torch.log2(likelihood.clamp(min=2.0**-24)).sum())


def expected_bits(reference: NDArray[np.float64], index: NDArray[np.integer], means: NDArray[np.floating]) -> float:
    """Divergence in bits from the Gaussians of the float network's rows and means, summed."""
    log_scales = np.log(default_scales())
    rows, true_means = np.split(reference, 2, 1)
    log_reference = np.interp(rows, np.arange(len(log_scales)), log_scales)
    return float(excess_bits(log_reference, true_means, log_scales[index], means).sum())


def measure(model: UGICM, coded: Sequence[Coded], networks: dict[str, ExactNetwork]) -> list[dict[str, object]]:
    """A record a quality."""
    records = []
    for quality in sorted({c.quality for c in coded}):
        pixels, base = 0, 0.0
        measured, expected = dict.fromkeys(networks, 0.0), dict.fromkeys(networks, 0.0)
        for c in (c for c in coded if c.quality == quality):
            rows, means = np.split(c.reference, 2, 1)
            index = np.clip(np.rint(rows), 0, 63).astype(np.int64)
            unavoidable = expected_bits(c.reference, index, means)
            base += symbol_bits(model, c.y, index, means)
            pixels += c.pixels
            for name, network in networks.items():
                integer_index, integers = exact_reference.run(network, c.z)
                if integers is None:
                    raise ValueError("the hyper-synthesis has no means")
                integer_means = integers * 2.0**-network.mean_fraction_bits
                measured[name] += symbol_bits(model, c.y, integer_index.astype(np.int64), integer_means)
                expected[name] += expected_bits(c.reference, integer_index, integer_means) - unavoidable
        records.append(
            {
                "quality": quality + 1,
                "float_bpp": base / pixels,
                "measured_percent": {name: 100 * (bits / base - 1) for name, bits in measured.items()},
                "expected_percent": {name: 100 * bits / base for name, bits in expected.items()},
            }
        )
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of the fast backbone")
    parser.add_argument("images", type=Path, help="folder of the images to measure on")
    parser.add_argument("calibration", type=Path, help="folder of images to take ranges from, other than those")
    parser.add_argument("--qualities", type=int, nargs="+", help="1-based; default: all")
    parser.add_argument("--count", type=int, default=8, help="images to measure on (default 8)")
    parser.add_argument("--calibrate", type=int, default=64, help="calibration images (default 64)")
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS), help="hidden/last/activation bits")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    model = rebuild(torch.load(given.checkpoint, weights_only=True, map_location="cpu"))
    if model.config.backbone != "fast":
        parser.error(f"{given.checkpoint}: the backbone is {model.config.backbone}, not fast")
    try:
        files, calibration = image_files(given.images), image_files(given.calibration)
    except FileNotFoundError as error:
        parser.error(str(error))
    total = model.config.qualities
    qualities = [q - 1 for q in given.qualities or range(1, total + 1)]
    if not all(0 <= q < total for q in qualities):
        parser.error(f"--qualities: the codec has 1 to {total}")

    layers, m = float_layers(model), model.config.widths.latent
    windows = []
    for i, path in enumerate(calibration[:: math.ceil(len(calibration) / given.calibrate)]):
        for _, _, y in latents(model, [path], [i % total]):
            z = hyper_latents(model, y)[:, :, :4, :4]
            if z.shape[2:] == (4, 4):
                windows.append(z)
    if not windows:
        parser.error(f"{given.calibration}: no image of 256 x 256 pixels or more")
    samples = {
        "prior": prior_samples(bottleneck_probabilities(model.bottleneck, 127).numpy()),
        "images": np.concatenate(windows),
    }
    networks = {}
    for source, z in samples.items():
        for width in given.widths:
            weight, head, activation = WIDTHS[width]
            settings = Settings(m, weight_bits=weight, head_weight_bits=head, activation_bits=activation)
            networks[f"{source} {width}"] = make_integer(layers, z, settings)
            print(f"{source} {width}: ready", file=sys.stderr, flush=True)
    coded = []
    for quality, pixels, y in latents(model, files[:: math.ceil(len(files) / given.count)], qualities):
        z = hyper_latents(model, y)
        coded.append(Coded(quality, pixels, y, z, float_run(layers, z)))
    records = measure(model, coded, networks)
    bounds = {
        name: {layer: round(math.log2(bound), 1) for layer, bound in network.bounds().items()}
        for name, network in networks.items()
    }
    if given.json:
        print(json.dumps({"qualities": records, "bounds_log2": bounds}, indent=2))
        return 0
    for name in networks:
        print(f"{name:16s} largest accumulators 2^{', 2^'.join(str(b) for b in bounds[name].values())}")
    print(f"\n{'quality':>7s} {'float bpp':>9s}  measured (expected) change in percent")
    print(" " * 18 + "".join(f"{name:>19s}" for name in networks))
    for r in records:
        changes, divergence = r["measured_percent"], r["expected_percent"]
        assert isinstance(changes, dict) and isinstance(divergence, dict)
        cells = "".join(f"{changes[n]:+10.3f} ({divergence[n]:+.3f})" for n in networks)
        print(f"{r['quality']:7d} {r['float_bpp']:9.4f}  {cells}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
