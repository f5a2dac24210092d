"""TensorRT-RTX builds engines without a GPU: whether graphs of any codec parse and build."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ugicm.export.device_graphs import device_form
from ugicm.runtime.backends.gpu.engines import Index, Sizes, profiles
from ugicm.runtime.backends.gpu.tensorrt_api import open_api
from ugicm.runtime.errors import BackendError

LEAST, USUAL, MOST = (64, 64), (128, 192), (256, 256)


def build_all(models: Mapping[str, bytes], halved: tuple[str, ...] = ()) -> None:
    """Parses and builds the graphs of a bundle in fp32, those `halved` in fp16; nothing where the package is missing.

    Raises:
        BackendError: one of them is refused, whose name is said.
    """
    try:
        api = open_api("tensorrt-rtx")
    except BackendError:
        return
    index = Index("", "fp32", 64, Sizes(LEAST, USUAL, MOST), None, {}, (2, 3))
    for name, model in models.items():
        device = device_form(onnx.load_model_from_string(model), name in halved).SerializeToString()
        network = api.parse(device, name)
        engine, _ = api.build(network, profiles(network, index))
        assert len(engine) > 10_000, name
