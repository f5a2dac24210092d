"""Reads the file of a checkpoint, PyTorch's or safetensors, without executing anything in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NUMBERS = re.compile(r"[<>=|]?([biuf])([1248])")
_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
_REFUSED = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
_BLOCKED = re.compile(r"unsupported GLOBAL ([\w.]+) whose module \S+ is blocked")


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the message says what was found and what is taken."""


class _Ignored:
    """Stands for an object that lies beside the weights and that nobody reads. It keeps nothing and runs nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class _NumPyType(_Ignored):
    """A NumPy type by its name, such as "f8"; stands for `numpy.dtype` while a file is read."""

    code: str

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code if isinstance(code, str) else ""


def _number(kind: Any = None, data: Any = b"") -> int | float | None:
    """A NumPy scalar as a plain number; None for anything but a number."""
    found = _NUMBERS.fullmatch(kind.code) if isinstance(kind, _NumPyType) else None
    if isinstance(data, str):  # protocol 2 keeps bytes as Latin-1
        data = data.encode("latin-1", "replace")
    if found is None or not isinstance(data, bytes) or len(data) != int(found[2]):
        return None
    if found[1] != "f":
        return int.from_bytes(data, "little", signed=found[1] == "i")
    types = {2: torch.float16, 4: torch.float32, 8: torch.float64}
    return float(torch.frombuffer(bytearray(data), dtype=types[len(data)])[0]) if len(data) in types else None


def _encoded(text: Any = "", encoding: Any = "latin1") -> bytes:
    """The bytes that protocol 2 keeps as a string; stands for `_codecs.encode`, which would look up any codec."""
    return text.encode("latin-1", "replace") if isinstance(text, str) else b""


_STAND_INS: list[tuple[Any, str]] = [
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_Ignored, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_NumPyType, "numpy.dtype"),
    (_encoded, "_codecs.encode"),
    *(
        (_Ignored, name)
        for name in (
            "numpy.ndarray",
            "argparse.Namespace",
            "pathlib.Path",
            "pathlib.PosixPath",
            "pathlib.WindowsPath",
            "pathlib.PurePosixPath",
            "pathlib.PureWindowsPath",
        )
    ),
]
"""Harmless types that lie beside weights in practice, and their stand-ins. None of the named code is called."""


def read(path: Path, taken: str) -> Any:
    """The values in a file: mappings, sequences, tensors and plain values.

    Args:
        path: the file.
        taken: the checkpoints that are taken, for messages.

    Raises:
        CheckpointError: no such file, no checkpoint, or one that holds types whose loading would run code.
    """
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path.read_bytes())
        with torch.serialization.safe_globals([*_STAND_INS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; give a checkpoint of {taken}") from error
    except Exception as error:  # the unpickler and the archive reader raise nearly every type on damaged data
        if blocked := _BLOCKED.search(str(error)):
            raise CheckpointError(
                f"{path}: calls {blocked[1]} when it is loaded, as no checkpoint does; do not load it, get another"
            ) from error
        if refused := _REFUSED.search(str(error)):
            raise CheckpointError(_advice(path, refused[1])) from error
        kind = "safetensors file" if path.suffix == ".safetensors" else "checkpoint that loads with weights_only=True"
        raise CheckpointError(f"{path}: not a {kind}; give one of {taken}") from error


def _advice(path: Path, name: str) -> str:
    found = f"x = torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    weights = "x.state_dict() if hasattr(x, 'state_dict') else x['state_dict']"
    anew = str(path.with_suffix(".weights.pth"))
    return (
        f"{path}: holds a {name}, and loading that would run code; if you trust the file, save its weights anew: "
        f'python -c "import torch; {found}; torch.save({weights}, {anew!r})"'
    )


def _safetensors(data: bytes) -> dict[str, Tensor]:
    """Tensors by name of a file's bytes.

    Raises:
        ValueError, KeyError, TypeError: not such a file.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_LONGEST_HEADER, len(data) - 8):
        raise ValueError("no header")
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name] = _tensor(entry, body)
    return tensors


def _tensor(entry: Mapping[str, Any], body: memoryview) -> Tensor:
    dtype, shape = _SAFETENSORS[entry["dtype"]], [int(size) for size in entry["shape"]]
    first, end = (int(offset) for offset in entry["data_offsets"])
    if not 0 <= first <= end <= len(body) or min(shape, default=0) < 0:
        raise ValueError("a tensor lies outside of the file")
    if end - first != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor of another size than its shape")
    if first == end:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(body[first:end]), dtype=dtype).reshape(shape)
