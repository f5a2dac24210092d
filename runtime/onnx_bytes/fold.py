"""A graph under a condition that is known: the condition becomes part of the weights, and what it added disappears.

A condition changes a pointwise convolution by a vector and a matrix of low rank (`models/fast.py`): as operators, three
convolutions, a product and two sums.

    Conv(x, W, bias) + shift + Conv(gate · Conv(x, down), up)    is    Conv(x, W + up · diag(gate) · down, bias + shift)

The right-hand side takes no more time than a network without conditions. A graph that is made in another way (a
condition inside of a nonlinearity, quantised weights) gets the condition as a constant; inference libraries fold that
as far as they can.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ugicm.runtime.errors import BundleError
from ugicm.runtime.onnx_bytes.wire import Value, content, field, fields, numbers, text

# Field numbers: onnx.proto3 of ONNX 1.x.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _VALUE_NAME = 1, 5, 11, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_INTEGERS = 1, 3, 8
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_FLOAT = 1
_TYPES: dict[int, np.dtype] = {_FLOAT: np.dtype("<f4"), 10: np.dtype("<f2"), 7: np.dtype("<i8")}


def with_condition(model: bytes, name: str, value: np.ndarray, where: Path | str = "the graph") -> bytes:
    """The model with its float32 input `name` given once and for all.

    What it computes is the same up to rounding. The result has at most twice the model's bytes more than the model.

    Args:
        model: an ONNX file that `graph_file.check_graph` lets pass.
        name: the input, (1, D).
        value: float32 of its shape.
        where: what errors call the file.

    Raises:
        BundleError: no such input, a value or weights that do not fit, weights that nothing makes, or no such file.
    """
    try:
        with np.errstate(all="ignore"):  # numbers beyond float32 are the network's business
            parts = [
                (number, _Graph(content(part), len(model)).folded(name, value) if number == _MODEL_GRAPH else part)
                for number, part in fields(memoryview(model))
            ]
        return b"".join(field(number, part) for number, part in parts)
    except ValueError as error:
        raise BundleError(f"{where}: {error}; copy or export the bundle again") from None


@dataclass(eq=False)
class _Node:
    """An operator; of another domain than ONNX's own, its name tells."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    raw: bytes | memoryview

    @classmethod
    def parse(cls, raw: memoryview) -> _Node:
        operator = domain = ""
        inputs, outputs = [], []
        for number, value in fields(raw):
            if number == _NODE_INPUT:
                inputs.append(text(value))
            elif number == _NODE_OUTPUT:
                outputs.append(text(value))
            elif number == _NODE_OPERATOR:
                operator = text(value)
            elif number == _NODE_DOMAIN:
                domain = text(value)
        return cls(operator if domain in ("", "ai.onnx") else f"{domain}.{operator}", inputs, outputs, raw)

    def integers(self, attribute: str, default: list[int]) -> list[int]:
        """An attribute of one or several integers."""
        for number, value in fields(memoryview(self.raw)):
            if number == _NODE_ATTRIBUTE:
                parts = list(fields(content(value)))
                if any(part == _ATTRIBUTE_NAME and text(inner) == attribute for part, inner in parts):
                    kinds = (_ATTRIBUTE_INTEGER, _ATTRIBUTE_INTEGERS)
                    return [n for part, inner in parts if part in kinds for n in numbers(inner)]
        return default

    def is_pointwise(self, weight: np.ndarray) -> bool:
        """Whether this convolution is a matrix product at each position."""
        return (
            weight.ndim == 4
            and weight.shape[2:] == (1, 1)
            and self.integers("group", [1]) == [1]
            and set(self.integers("strides", [1])) == {1}
            and not any(self.integers("pads", []))
        )

    def rewritten(self, inputs: list[str], output: str) -> bytes:
        """The same operator between other tensors."""
        kept = [field(n, v) for n, v in fields(memoryview(self.raw)) if n not in (_NODE_INPUT, _NODE_OUTPUT)]
        names = [field(_NODE_INPUT, i.encode()) for i in inputs] + [field(_NODE_OUTPUT, output.encode())]
        return b"".join(names + kept)


@dataclass(frozen=True)
class _LowRank:
    """up · diag(gate) · down, of what a tensor holds."""

    source: str
    down: np.ndarray
    gate: np.ndarray
    up: np.ndarray


class _Graph:
    """A GraphProto whose condition is folded; `room` bounds the bytes of new weights, to twice of it."""

    def __init__(self, message: memoryview, room: int) -> None:
        self._parts: list[tuple[int, Value | _Node]] = []
        self._tensors: dict[str, memoryview] = {}
        self._made: dict[str, _Node] = {}
        self._inputs: set[str] = set()
        self._outputs: set[str] = set()
        self._room = 2 * room
        self._new: dict[str, np.ndarray] = {}
        for number, value in fields(message):
            if number == _GRAPH_NODE:
                node = _Node.parse(content(value))
                self._parts.append((number, node))
                self._made.update(dict.fromkeys(node.outputs, node))
                continue
            self._parts.append((number, value))
            if number == _GRAPH_INITIALIZER:
                self._tensors[_name(value, _TENSOR_NAME)] = content(value)
            elif number == _GRAPH_INPUT:
                self._inputs.add(_name(value, _VALUE_NAME))
            elif number == _GRAPH_OUTPUT:
                self._outputs.add(_name(value, _VALUE_NAME))
        self._uses = Counter([*self._outputs, *(i for node in self._nodes() for i in node.inputs)])

    def folded(self, name: str, value: np.ndarray) -> bytes:
        """The bytes of the graph with its input `name` a constant."""
        if name not in self._inputs:
            raise ValueError(f"has no input {name}")
        self._inputs.remove(name)
        self._new[name] = np.ascontiguousarray(value, "<f4")
        vectors = self._vectors(name)
        for node in self._nodes():
            if node.operator == "Add" and (len(node.inputs), len(node.outputs)) == (2, 1):
                for plain, added in (node.inputs, node.inputs[::-1]):
                    if (low_rank := self._low_rank(added, vectors)) and self._join(node, plain, low_rank, vectors):
                        break
        return self._bytes(name)

    def _nodes(self) -> list[_Node]:
        return [part for _, part in self._parts if isinstance(part, _Node)]

    def _vectors(self, name: str) -> dict[str, np.ndarray]:
        """What the graph makes of the condition alone: its parts, brought to (1, C, 1, 1), and to
        another order or other units."""
        vectors = {name: self._new[name]}
        for node in self._nodes():
            vector = vectors.get(node.inputs[0]) if len(node.inputs) == 2 else None
            if vector is None:
                continue
            if node.operator == "Gather" and node.integers("axis", [0]) == [1]:
                vectors.update(dict.fromkeys(node.outputs, self._ordered(vector, node.inputs[1])))
            elif node.operator == "Mul" and node.inputs[1] in self._tensors:
                if (units := self._weight(node.inputs[1])) is not None and units.shape == vector.shape:
                    self._take(vector.nbytes)
                    vectors.update(dict.fromkeys(node.outputs, vector * units))
            elif vector.ndim != 2:
                continue
            elif node.operator == "Unsqueeze" and self._integers(node.inputs[1]) == [2, 3]:
                vectors.update(dict.fromkeys(node.outputs, vector[:, :, None, None]))
            elif node.operator == "Split" and node.integers("axis", [0]) in ([1], [-1]):
                if (sizes := self._integers(node.inputs[1])) is None:
                    continue
                if min(sizes, default=0) < 0 or sum(sizes) != vector.shape[1] or len(sizes) != len(node.outputs):
                    raise ValueError(f"its condition has {vector.shape[1]} numbers, which do not split as it says")
                vectors.update(zip(node.outputs, np.split(vector, np.cumsum(sizes)[:-1], 1), strict=True))
        return vectors

    def _ordered(self, vector: np.ndarray, name: str) -> np.ndarray:
        """A vector with its numbers in the order that an initialiser tells."""
        order = self._integers(name)
        if order is None or sorted(order) != list(range(vector.shape[1])):
            raise ValueError(f"{_short(name)} is no order of {vector.shape[1]} numbers")
        self._take(vector.nbytes)
        return vector[:, order]

    def _take(self, nbytes: int) -> None:
        self._room -= nbytes
        if self._room < 0:
            raise ValueError("its convolutions share their weights")

    def _tensor(self, message: memoryview) -> np.ndarray | None:
        """An initialiser, None where its type or form is none that export writes."""
        dims: list[int] = []
        kind, raw = 0, None
        for number, value in fields(message):
            if number == _TENSOR_DIMS:
                dims += numbers(value)
            elif number == _TENSOR_TYPE and isinstance(value, int):
                kind = value
            elif number == _TENSOR_RAW:
                raw = content(value)
        if kind not in _TYPES or raw is None:
            return None
        if any(n < 0 for n in dims) or math.prod(dims) * _TYPES[kind].itemsize != len(raw):
            raise ValueError(f"{_short(_name(message, _TENSOR_NAME))} has fewer or more numbers than its shape says")
        return np.frombuffer(raw, _TYPES[kind]).reshape(dims)

    def _integers(self, name: str) -> list[int] | None:
        """A list of integers among the initialisers."""
        found = self._tensor(self._tensors[name]) if name in self._tensors else None
        return found.tolist() if found is not None and found.dtype == np.int64 and found.ndim == 1 else None

    def _weight(self, name: str) -> np.ndarray | None:
        """float32 of an initialiser, of one that is cast, or None where it is neither."""
        cast = self._made.get(name)
        if cast and cast.operator == "Cast" and len(cast.inputs) == 1 and cast.integers("to", []) == [_FLOAT]:
            name = cast.inputs[0]
        if name in self._tensors:
            tensor = self._tensor(self._tensors[name])
            return tensor if tensor is None else tensor.astype(np.float32)
        if name not in self._made and name not in self._inputs:
            raise ValueError(f"nothing makes {_short(name)}, which it reads")
        return None

    def _once(self, name: str, operator: str, inputs: tuple[int, ...]) -> _Node | None:
        """What makes a tensor that is read once, if it is such an operator of so many inputs."""
        node = self._made.get(name)
        fits = node and node.operator == operator and len(node.inputs) in inputs and self._uses[name] == 1
        return node if fits else None

    def _low_rank(self, name: str, vectors: dict[str, np.ndarray]) -> _LowRank | None:
        if (up := self._once(name, "Conv", (2,))) is None or (mul := self._once(up.inputs[0], "Mul", (2,))) is None:
            return None
        for gate, product in (mul.inputs, mul.inputs[::-1]):
            down = self._once(product, "Conv", (2,))
            if down is None or gate not in vectors:
                continue
            matrices = [self._weight(conv.inputs[1]) for conv in (down, up)]
            if all(m is not None and c.is_pointwise(m) for m, c in zip(matrices, (down, up), strict=True)):
                into, out = (m[:, :, 0, 0] for m in matrices if m is not None)
                middle = _channels(vectors[gate], len(into), gate)
                if out.shape[1] != len(into):
                    raise ValueError(f"{_short(up.inputs[1])} does not fit {_short(down.inputs[1])}")
                return _LowRank(down.inputs[0], into, middle, out)
        return None

    def _join(self, total: _Node, plain: str, low_rank: _LowRank, vectors: dict[str, np.ndarray]) -> bool:
        """Makes of a sum the convolution that does the same; False where it is no such sum."""
        shift: str | None = None
        if add := self._once(plain, "Add", (2,)):
            for shift, summand in (add.inputs, add.inputs[::-1]):
                if shift in vectors:
                    plain = summand
                    break
            else:
                return False
        conv = self._once(plain, "Conv", (2, 3))
        if conv is None or conv.inputs[0] != low_rank.source:
            return False
        weight = self._weight(conv.inputs[1])
        if weight is None or not conv.is_pointwise(weight):
            return False
        outputs, inputs = weight.shape[:2]
        bias = self._weight(conv.inputs[2]) if any(conv.inputs[2:]) else np.zeros(outputs, np.float32)
        if bias is None:
            return False
        if (outputs, inputs) != (len(low_rank.up), low_rank.down.shape[1]) or bias.shape != (outputs,):
            raise ValueError(f"what a condition adds to {_short(conv.inputs[1])} does not fit it")
        self._take(weight.nbytes)
        if shift is not None:
            bias = bias + _channels(vectors[shift], outputs, shift)
        added = (low_rank.up * low_rank.gate) @ low_rank.down
        result = total.outputs[0]
        names = [f"{result}/weight", f"{result}/bias"]
        self._new[names[0]] = weight + added[:, :, None, None]
        self._new[names[1]] = bias
        conv.raw = conv.rewritten([conv.inputs[0], *names], result)
        conv.inputs, conv.outputs = [conv.inputs[0], *names], [result]
        total.outputs = []
        self._made[result] = conv
        return True

    def _bytes(self, name: str) -> bytes:
        """The message, without the input `name` and whatever no output needs any more."""
        needed = self._outputs | self._inputs
        dead = set()
        for node in reversed(self._nodes()):
            if needed.isdisjoint(node.outputs):
                dead.add(node)
            else:
                needed.update(node.inputs)
        parts = []
        for number, part in self._parts:
            if isinstance(part, _Node):
                parts += [] if part in dead else [field(number, part.raw)]
            elif number == _GRAPH_INITIALIZER:
                parts += [field(number, part)] if _name(part, _TENSOR_NAME) in needed else []
            elif number != _GRAPH_INPUT or _name(part, _VALUE_NAME) != name:
                parts.append(field(number, part))
        new = [field(_GRAPH_INITIALIZER, _tensor_bytes(n, array)) for n, array in self._new.items() if n in needed]
        return b"".join(parts + new)


def _name(message: Value, number: int) -> str:
    """The name in a message, "" where there is none."""
    return next((text(value) for found, value in fields(content(message)) if found == number), "")


def _channels(vector: np.ndarray, channels: int, name: str) -> np.ndarray:
    """(channels,) of (1, channels, 1, 1)."""
    if vector.shape != (1, channels, 1, 1):
        raise ValueError(f"{_short(name)} of the condition is no vector of {channels} numbers")
    return vector.reshape(channels)


def _tensor_bytes(name: str, array: np.ndarray) -> bytes:
    dims = [field(_TENSOR_DIMS, n) for n in array.shape]
    raw = np.ascontiguousarray(array, "<f4").tobytes()
    kind = field(_TENSOR_TYPE, _FLOAT)
    return b"".join([*dims, kind, field(_TENSOR_NAME, name.encode()), field(_TENSOR_RAW, raw)])


def _short(name: str) -> str:
    return repr(name[:80])
