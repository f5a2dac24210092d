"""What fuzzing runs: any bytes as a file, as a manifest or as a bundle's arrays."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
import zlib
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from tests.attacks.edits import Edit, edited
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.backends import Graph
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import UgicError
from ugicm.runtime.manifest import MANIFEST, Manifest

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
KINDS = ("a file", "a file, its checksum mended", "a manifest", "tables.npz", "exact.npz", "edits of a bundle's arrays")


class _Sessions:
    """ONNX Runtime, each graph loaded once however many bundles hold it."""

    name = "onnxruntime (CPU)"

    def __init__(self) -> None:
        self._backend = OnnxRuntime(threads=1)
        self._graphs: dict[bytes, Graph] = {}

    def load(self, model: bytes, name: str) -> Graph:
        if model not in self._graphs:
            self._graphs[model] = self._backend.load(model, name)
        return self._graphs[model]


@cache
def prepare() -> tuple[Codec, dict[str, bytes], tuple[bytes, ...]]:
    """The codec of a small bundle, the bytes of the bundle's files, and files of the codec."""
    bundle = Bundle.open(GOLDEN / "bundle")
    contents = {file.name: file.read_bytes() for file in sorted((GOLDEN / "bundle").iterdir())}
    files = tuple(file.read_bytes() for file in sorted(GOLDEN.glob("*.ugic")))
    return Codec(bundle, _Sessions()), contents, files


def attack(data: bytes) -> str:
    """Does with an input what its first byte says; returns how that ended: "fine" or the name of a UgicError.

    Any other exception is a fault of the runtime. So is a file that is read without complaint although writing what
    was read gives other bytes, and a picture of another size than the header's.
    """
    kind, payload = data[0] % len(KINDS), data[1:]
    codec, contents, files = prepare()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == 0:
                _decode(codec, payload)
            elif kind == 1:
                _decode(codec, _mended(payload))
            elif kind == 2:
                manifest = Manifest.from_json(payload.decode("utf-8", "replace"), Path(MANIFEST))
                _use(manifest, {name: contents.get(name, b"") for name in manifest.files}, files[2])
            else:
                names = ("tables.npz", "exact.npz")
                changed = {names[kind - 3]: payload} if kind < 5 else edited({n: contents[n] for n in names}, payload)
                manifest = Manifest.from_json(contents[MANIFEST].decode(), Path(MANIFEST))
                _use(manifest, {**contents, **changed}, files[2])
    except UgicError as error:
        assert "\n" not in str(error) and str(error), "an error is one line"
        return type(error).__name__
    return "fine"


def _decode(codec: Codec, data: bytes) -> None:
    stream = bitstream.parse(data)
    assert bitstream.pack(stream) == data, "two files of one content"
    assert codec.decode(data, "machine").shape == (stream.height, stream.width, 3)


def _use(manifest: Manifest, contents: dict[str, bytes], file: bytes) -> None:
    """Opens a bundle whose author knows how to compute a codec id, and decodes and encodes with it."""
    try:
        bundle = Bundle(Path("bundle"), manifest, contents)
    except UgicError as error:
        if not (found := re.search(r"its contents make ([0-9a-f]{16})", str(error))):
            raise
        bundle = Bundle(Path("bundle"), replace(manifest, codec_id=found[1]), contents)
    codec = Codec(bundle, prepare()[0].backend)
    stream = replace(bitstream.parse(file), codec_id=bundle.codec_id)
    with suppress(UgicError):  # other tables, other symbols; encoding has faults of its own to show
        codec.decode(bitstream.pack(stream), 0.5 if codec.conditions else None)
    _decode(codec, codec.encode(np.full((30, 70, 3), 99, np.uint8), 1))


def _mended(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


def seeds() -> list[bytes]:
    """Inputs to start from: of each kind a whole one, small."""
    codec, contents, files = prepare()
    small = []
    for name in ("tables.npz", "exact.npz"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(contents[name])) as source, zipfile.ZipFile(buffer, "w") as target:
            for entry in source.infolist():
                if entry.file_size < 600:
                    target.writestr(entry.filename, source.read(entry))
        small.append(buffer.getvalue())
    edit = bytes([3, 0, 1, 0, 0, 0, 1, 0])
    found = [bytes([0]) + file for file in files[::2]] + [bytes([1]) + file[:-4] for file in files[::2]]
    manifest = json.dumps(json.loads(contents[MANIFEST]), separators=(",", ":"))
    found += [b"\2" + manifest.encode(), b"\3" + small[0], b"\4" + small[1]]
    found += [bytes([5, array]) + edit[1:] for array in range(27)]
    return found + [bytes([5, array, operation]) + edit[2:] for array in (2, 7) for operation in Edit]
