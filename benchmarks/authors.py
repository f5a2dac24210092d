"""UG-ICM's authors' own code, from a checkout of `YinKangSheng/UG-ICM`, on a CPU. It needs timm and einops.

Their `compress` and `decompress` wait for a GPU before they look at the clock; here there is none to wait for. One
function that they import has had another name in compressai since.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.compare import pixels, tensor
from ugicm.models.entropy import compressai_module


class AuthorsCodec:
    """Their network with the weights of a state dict.

    Args:
        checkout: the folder of their repository.
        state: of a network of the published widths.
    """

    def __init__(self, checkout: Path, state: dict[str, Tensor]) -> None:
        compressai_module("models")
        ops = compressai_module("ops")
        ops.ste_round = ops.quantize_ste
        sys.path.insert(0, str(checkout))
        try:
            network = importlib.import_module("models.ug_mlicpp").UG_MLICPlusPlus
            self._model: Any = network(importlib.import_module("config.config").model_config())
        finally:
            sys.path.remove(str(checkout))
        # What it would load them with asks for tables, which `update` makes.
        missing, unknown = nn.Module.load_state_dict(self._model, state, strict=False)
        made = ("relative_position_index", "_offset", "_quantized_cdf", "_cdf_length")
        left = [k for k in (*missing, *unknown) if not k.endswith(made) and not k.startswith("gaussian_conditional.")]
        if left:
            raise ValueError(f"{checkout}: its network has other weights: {', '.join(left[:3])}")
        self._model.eval().update(force=True)

    def encode(self, image: np.ndarray) -> dict[str, Any]:
        """(H, W, 3) uint8 to their strings."""
        return self._without_gpu(lambda: self._model.compress(tensor(image, 64)))  # type: ignore[no-any-return]

    def decode(self, coded: dict[str, Any], shape: tuple[int, ...], beta: float) -> np.ndarray:
        """Their strings to (H, W, 3) uint8."""
        out = self._without_gpu(lambda: self._model.decompress(coded["strings"], coded["shape"], beta))
        return pixels(out["x_hat"], shape)

    @staticmethod
    def _without_gpu(work: Callable[[], Any]) -> Any:
        waits, torch.cuda.synchronize = torch.cuda.synchronize, lambda device=None: None
        try:
            return work()
        finally:
            torch.cuda.synchronize = waits
