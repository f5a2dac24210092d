"""Graphs that answer with something else than a codec's: other types, ranks, sizes, numbers, and how many arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = ("FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "BOOL", "STRING", "FLOAT16", "DOUBLE", "UINT64")


class Rewritten:
    """A graph whose outputs go through more operators. `model` may be any bytes; what is no graph stays as it is."""

    def __init__(self, model: bytes) -> None:
        self.model = onnx.load_model_from_string(model)
        self.graph = self.model.graph
        self.names = [output.name for output in self.graph.output]

    def through(self, name: str, *steps: tuple[str, Sequence[Any], dict[str, Any]]) -> None:
        """Sends an output through operators: (operator, its other inputs as arrays, its attributes)."""
        for node in self.graph.node:
            for i, output in enumerate(node.output):
                if output == name:
                    node.output[i] = f"{name}/0"
            for i, given in enumerate(node.input):
                if given == name:
                    node.input[i] = f"{name}/0"
        for number, (operator, others, attributes) in enumerate(steps):
            extra = []
            for k, array in enumerate(others):
                if isinstance(array, str):
                    extra.append(array)
                    continue
                extra.append(f"{name}/{number}/{k}")
                self.graph.initializer.append(numpy_helper.from_array(np.asarray(array), extra[-1]))
            target = name if number == len(steps) - 1 else f"{name}/{number + 1}"
            node = helper.make_node(operator, [f"{name}/{number}", *extra], [target], **attributes)
            self.graph.node.append(node)
        for output in self.graph.output:
            if output.name == name:
                output.CopyFrom(helper.make_value_info(name, onnx.TypeProto()))

    def bytes(self) -> bytes:
        return bytes(self.model.SerializeToString())


def _cast(kind: str) -> tuple[str, Sequence[Any], dict[str, Any]]:
    return ("Cast", (), {"to": getattr(TensorProto, kind)})


def _rows(start: int, stop: int, axis: int) -> tuple[str, Sequence[Any], dict[str, Any]]:
    return ("Slice", tuple(np.array([n], np.int64) for n in (start, stop, axis)), {})


def _like_float(*steps: Any) -> tuple[Any, ...]:
    return (_cast("FLOAT"), *steps)


SHAPES: dict[str, tuple[tuple[str, Sequence[Any], dict[str, Any]], ...]] = {
    "of rank 2": (("Flatten", (), {}),),
    "of rank 5": (("Unsqueeze", (np.array([0], np.int64),), {}),),
    "of rank 1": (("Reshape", (np.array([-1], np.int64),), {}),),
    "its shape": (("Shape", (), {}),),
    "its size": (("Size", (), {}),),
    "no files": (_rows(0, 0, 0),),
    "one channel": (_rows(0, 1, 1),),
    "no channels": (_rows(0, 0, 1),),
    "a row less": (_rows(0, -1, 2),),
    "a column less": (_rows(0, -1, -1),),
    "rows from the third on": (_rows(2, 2**40, 2),),
    "turned": (("Transpose", (), {"perm": [0, 3, 1, 2]}),),
    "twice as tall": (("Tile", (np.array([1, 1, 2, 1], np.int64),), {}),),
    "twice as wide": (("Tile", (np.array([1, 1, 1, 2], np.int64),), {}),),
    "twice the files": (("Tile", (np.array([2, 1, 1, 1], np.int64),), {}),),
    "an optional": (("Optional", (), {}),),
    "a sequence": (("SequenceConstruct", (), {}),),
    "where it is not 0": (("NonZero", (), {}),),
}
VALUES: dict[str, float] = {
    "no numbers": float("nan"),
    "infinity": float("inf"),
    "1e38": 1e38,
    "-3e9": -3e9,
    "2^24 + 1": 2.0**24 + 1,
    "255": 255.0,
    "-1": -1.0,
}
_TYPE_OF = {"UINT8": np.uint8, "FLOAT": np.float32}


def names() -> list[str]:
    """Of all rewritings of one output, or of a whole graph."""
    return [*(f"type {t}" for t in TYPES), *SHAPES, *(f"all {v}" for v in VALUES), *_WHOLE]


def _nothing(found: Rewritten, _: str) -> None:
    del found.graph.output[:]


def _twice(found: Rewritten, name: str) -> None:
    again = helper.make_tensor_value_info("again", TensorProto.FLOAT, None)
    found.graph.node.append(helper.make_node("Identity", [name], ["again"]))
    again.CopyFrom(helper.make_value_info("again", onnx.TypeProto()))
    found.graph.output.append(again)


def _turned(found: Rewritten, _: str) -> None:
    outputs = list(found.graph.output)[::-1]
    del found.graph.output[:]
    found.graph.output.extend(outputs)


def _empty(found: Rewritten, name: str) -> None:
    del found.graph.node[:]
    found.graph.node.append(helper.make_node("Identity", [found.graph.input[0].name], [name]))


def _random(found: Rewritten, name: str) -> None:
    found.through(name, _cast("FLOAT"), ("RandomNormalLike", (), {"dtype": TensorProto.FLOAT, "scale": 40.0}))


_WHOLE: dict[str, Callable[[Rewritten, str], None]] = {
    "no outputs": _nothing,
    "an output more": _twice,
    "outputs the other way round": _turned,
    "its input": _empty,
    "noise": _random,
}


def rewritten(model: bytes, output: int, what: str) -> bytes:
    """A graph with one of `names()` done to an output."""
    found = Rewritten(model)
    if not found.names:
        return model
    name = found.names[output % len(found.names)]
    if what in _WHOLE:
        _WHOLE[what](found, name)
    elif what in SHAPES:
        found.through(name, *SHAPES[what])
    elif what.startswith("type "):
        found.through(name, _cast(what[5:]))
    else:
        value = np.array(VALUES[what[4:]], np.float32)
        kind = next(o for o in found.graph.output if o.name == name).type.tensor_type.elem_type
        # 0 · x + value, where x - x would be no number for infinite x
        steps = (_cast("FLOAT"), ("Mul", (np.zeros((), np.float32),), {}), ("Add", (value,), {}))
        found.through(name, *steps, ("Cast", (), {"to": kind or TensorProto.FLOAT}))
    return found.bytes()
