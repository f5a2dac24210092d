"""The backend `webgpu`: exact by golden vectors where an adapter is, an error where none is; never the CPU instead."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime.admission import graph_runner, reproduces
from ugicm.runtime.backends import open_backend
from ugicm.runtime.backends.gpu import webgpu
from ugicm.runtime.backends.providers import WEBGPU, providers
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError
from ugicm.runtime.graphs.answers import Answers
from ugicm.runtime.stage_admission import admit

GOLDEN = Path(__file__).parents[2] / "golden" / "v1"


def reason() -> str:
    """Why there is no WebGPU here, or an empty string."""
    try:
        open_backend("webgpu", bundle=Bundle.open(GOLDEN / "bundle"))
    except BackendError as error:
        return f"no WebGPU: {error}"
    return ""


MISSING = reason()


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_golden_vectors_and_a_golden_file_on_an_adapter() -> None:
    bundle = Bundle.open(GOLDEN / "bundle")
    backend = open_backend("webgpu", bundle=bundle)
    assert reproduces(bundle, graph_runner(bundle, backend))
    data = (GOLDEN / "50x70-q2.ugic").read_bytes()
    expected = Codec.from_bundle(GOLDEN / "bundle", threads=1).decode(data).astype(int)
    assert np.abs(Codec(bundle, backend).decode(data) - expected).max() <= 2


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_stages_of_odd_widths_on_an_adapter() -> None:
    """Convolutions of 6 and 18 channels, which the library's own choice of layout gets wrong."""
    bundle = Bundle.open(GOLDEN.with_name("v2-raster") / "bundle")
    assert admit(bundle, "webgpu", cache(partial(Answers(bundle).load, open_backend("webgpu", bundle=bundle)))) < 1e-4


def test_channels_come_first() -> None:
    entry = "ep.webgpuexecutionprovider.preferredLayout"
    assert webgpu.WebGpu(WEBGPU, 1).options().get_session_config_entry(entry) == "NCHW"


def test_a_provider_that_is_listed_and_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without an adapter: the library would go on with the CPU."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def on_the_cpu(model: bytes, options: object, providers: list[str], **_: object) -> object:
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [WEBGPU, "CPUExecutionProvider"])
    assert WEBGPU in providers()
    with pytest.raises(BackendError, match="was asked for, but ONNX Runtime did not start it"):
        webgpu.open_webgpu(Bundle.open(GOLDEN / "bundle"))


def test_a_precision_and_a_build_without_it_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="webgpu runs a bundle as it is"):
        open_backend("webgpu", precision="fp16")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match="pip install 'ugicm.webgpu.'"):
        open_backend("webgpu")
