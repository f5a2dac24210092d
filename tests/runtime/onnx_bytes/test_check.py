"""What a graph may not hold, beside what tests/attacks tries."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from ugicm.runtime.bundle import DEFAULT
from ugicm.runtime.errors import BundleError
from ugicm.runtime.onnx_bytes.check import check_graph


def test_a_weight_whose_name_is_no_text_is_refused() -> None:
    whole = bytearray((DEFAULT / "context.onnx").read_bytes())
    model = onnx.load_model_from_string(bytes(whole))
    name = model.graph.initializer[0].name.encode()
    at = bytes(whole).rindex(name)  # where the weight itself says it, after all nodes
    whole[at] = 0xCE
    with pytest.raises(BundleError, match="not an ONNX file"):
        check_graph(bytes(whole), Path("x"))
