"""A graph with a constant in place of an input computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from runtime import Codec
from runtime.graph_file import check_graph, with_constant


def test_the_constant_stands_where_the_input_was(codec: Codec) -> None:
    model = codec.bundle.graph("g_s")[1]
    vector = np.arange(6, dtype=np.float32).reshape(1, 6)
    before, after = onnx.load_from_string(model), onnx.load_from_string(with_constant(model, "condition", vector))
    check_graph(after.SerializeToString(), codec.bundle.path)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in after.graph.initializer}
    assert np.array_equal(constants.pop("condition"), vector)
    assert [i.name for i in after.graph.input] == ["features"]
    restored = onnx.ModelProto()
    restored.CopyFrom(after)
    del restored.graph.initializer[-1], restored.graph.input[:]
    restored.graph.input.extend(before.graph.input)
    assert restored == before


def test_an_unknown_input_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="no input beta"):
        with_constant(codec.bundle.graph("g_s")[1], "beta", np.zeros(1, np.float32))


@pytest.mark.parametrize("condition", ["human", "machine"])
def test_named_conditions_give_the_picture_of_their_vectors(
    codec: Codec, photograph: np.ndarray, condition: str
) -> None:
    data = codec.encode(photograph)
    folded = codec.decode(data, condition).astype(int)
    other = Codec(codec.bundle, codec.backend)
    vector = codec.bundle.condition_vectors[condition].copy()  # equal, but not the named one
    stream = other._parse(data, "photo")
    (given,) = other._views(other._latents(stream, "photo"), stream, [vector], None)
    assert f"g_s.{condition}" in codec._graphs and f"g_s.{condition}" not in other._graphs
    assert np.abs(folded - given).max() <= 1
    assert (folded != given).mean() < 1e-3
