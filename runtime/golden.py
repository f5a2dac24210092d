"""Golden vectors: inputs of the entropy path and what must come out of it, validated before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ugicm.runtime.errors import require
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.manifest import Manifest

MOST, LARGEST = 64, 4096  # vectors of a bundle, positions of a vector's `z`
_KINDS = {"scale_index": ("|u1",), "mean": ("<f4",), "symbols": ("|i1", "<i2", "<i4"), "index": ("<f4", "<f8")}


def check_entropy_path(m: Manifest, exact: ExactNetwork | None, rows: int, golden: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless the exact network, tables of so many rows and golden vectors fit each other."""
    ratio, limit = m.stride // m.latent_stride, 2**24
    names: tuple[str, ...] = ("symbols", "index")
    if exact is not None:
        names, limit = ("scale_index", "mean")[: 1 + bool(exact.mean_channels)], exact.input_limit
        finer = math.prod(layer.upsample for layer in exact.layers)
        fits = (exact.z_channels, exact.scale_channels, finer) == (m.hyper_channels, m.latent_channels, ratio)
        require(fits, "the exact network does not fit the manifest")
        highest, table = exact.layers[-1].output_range()[1][: exact.scale_channels], exact.scale_table
        top = (highest if table is None else table).max(initial=0)
        require(top < rows, "the exact network gives rows that no table has")
    count = sum(name.startswith("z") for name in golden)
    fits = count <= MOST and bool(count) == (exact is not None or m.schedule is not None)
    require(fits, f"there are {count} golden vectors; a codec with h_s has 1 to {MOST}")
    for i in range(count):
        z = golden.get(f"z{i}", np.zeros(0))
        fits = z.dtype.kind == "i" and z.ndim == 4 and z.shape[:2] == (1, m.hyper_channels)
        fits = fits and 0 < z[0, 0].size <= LARGEST and max(int(z.max()), -int(z.min())) <= limit
        require(fits, f"golden vector z{i} is missing or none of this codec")
        quality = golden.get(f"quality{i}", np.ones((), int))
        fits = not quality.shape and quality.dtype.kind in "iu" and bool(1 <= quality <= m.qualities)
        require(fits, f"golden vector {i} is of no quality of this codec")
        shape = (1, m.latent_channels, *(ratio * length for length in z.shape[2:]))
        for name in names:
            array = golden.get(f"{name}{i}", z)
            fits = array.dtype.str in _KINDS[name] and array.shape == shape and np.isfinite(array).all()
            require(fits, f"golden vector {name}{i} is missing or none of this codec")
