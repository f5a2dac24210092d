from __future__ import annotations

from contextlib import suppress

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugicm.runtime.onnx_bytes.wire import fields, numbers
from ugicm.runtime.onnx_bytes.write import field

VALUES = st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300))


@given(st.lists(st.tuples(st.integers(1, 2**20), VALUES), max_size=8))
def test_what_is_written_is_read(parts: list[tuple[int, int | bytes]]) -> None:
    message = b"".join(field(number, value) for number, value in parts)
    found = [(number, v if isinstance(v, int) else bytes(v)) for number, v in fields(memoryview(message))]
    assert found == parts
    for end in range(len(message)):
        with suppress(ValueError):
            assert len(list(fields(memoryview(message)[:end]))) < len(parts)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6))
def test_integers_are_signed_and_may_be_packed(values: list[int]) -> None:
    each = onnx.AttributeProto(ints=values).SerializeToString()
    assert [n for number, v in fields(memoryview(each)) for n in numbers(v) if number == 8] == values
    packed = onnx.TensorProto(int64_data=values).SerializeToString()
    assert [numbers(v) for _, v in fields(memoryview(packed))] == [values]


@pytest.mark.parametrize("message", [b"\x0a\x05abc", b"\x08", b"\x08" + b"\xff" * 10, b"\x0b", b"\x0d\x00"], ids=repr)
def test_other_bytes_are_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        list(fields(memoryview(message)))
