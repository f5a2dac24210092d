"""The integer network as TensorRT-RTX reads it: parsed and built, which needs no GPU."""

from __future__ import annotations

import pytest

from ugicm.calibration.exact.emit import to_onnx
from ugicm.runtime.bundle import DEFAULT, Bundle

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13: pip install 'ugicm[tensorrt-rtx]'")


def test_the_float_form_parses_and_builds() -> None:
    bundle = Bundle.open(DEFAULT)
    assert bundle.exact is not None
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(to_onnx(bundle.exact, "float").SerializeToString())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    channels = bundle.manifest.hyper_channels
    profile.set_shape("z", (1, channels, 1, 1), (1, channels, 8, 12), (4, channels, 32, 32))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    assert [network.get_output(i).name for i in range(network.num_outputs)] == ["scale_index", "mean"]
