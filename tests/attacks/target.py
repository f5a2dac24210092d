"""What fuzzing runs: any bytes as a file, a staged substream, a manifest or a bundle's arrays."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.backends import Graph
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bitstream import Guard, Section
from ugicm.runtime.bundle import Bundle, read_arrays
from ugicm.runtime.errors import UgicError
from ugicm.runtime.guard import Rounding
from ugicm.runtime.manifest import MANIFEST, Manifest
from ugicm.runtime.staged_coder import StagedDecoder, StagedEncoder

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
KINDS = (
    "a file",
    "a file, its checksum mended",
    "a manifest",
    "tables.npz",
    "exact.npz",
    "edits of a bundle's arrays",
    "a staged substream",
)
_EDIT = 8  # bytes of an edit: array, operation, 16 bits of position, 32 bits of value
_TYPES = ("<u4", "<i4", "<f4", "<f8", "<i2", "|i1", "<U1", "|S1", "<c8", "|b1", "<u8", ">i4", "<M8[s]", "|V3")
_NUMBERS = (np.nan, np.inf, -np.inf, 0.0, 1e38, -1.0, 2.0**31, 2.0**24)


class _Sessions:
    """ONNX Runtime, each graph loaded once however many bundles hold it."""

    name = "onnxruntime (CPU)"

    def __init__(self) -> None:
        self._backend = OnnxRuntime(threads=1)
        self._graphs: dict[bytes, Graph] = {}

    def load(self, model: bytes, name: str, weights: Mapping[str, np.ndarray] | None = None) -> Graph:
        if weights:
            return self._backend.load(model, name, weights)
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
            elif kind == 6:
                symbols, written = _read_staged(payload)
                assert _read_staged(written)[0] == symbols, "other symbols are written than were read"
            else:
                names = ("tables.npz", "exact.npz")
                changed = {names[kind - 3]: payload} if kind < 5 else _edited({n: contents[n] for n in names}, payload)
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


def _read_staged(data: bytes) -> tuple[list[int], bytes]:
    """Two bytes of a guard, then a substream of three stages, each of whose indexes depend on the symbols before it.

    Returns the symbols, and the same data as an encoder writes it.
    """
    guard, tables = Guard(8 + sum(data[:1]) % 13, 32 + sum(data[1:2])), prepare()[0].bundle.y_tables
    rounding, decoder = Rounding(guard, tables.lengths == 0), StagedDecoder(data[2:], tables, "x.ugic")
    encoder, symbols = StagedEncoder(tables), np.zeros(300, np.int32)
    found: list[int] = []
    for _ in range(3):
        s = _indexes(symbols)
        shifts = decoder.shifts(-(-s.size // guard.block))
        rows = rounding.rows(s, shifts, "x.ugic")
        symbols = decoder.symbols(rows)
        found += symbols.tolist()
        encoder.shifts(shifts)
        encoder.symbols(symbols, rows)  # refuses a symbol of a skipped row
    decoder.finish()
    return found, data[:2] + encoder.finish()


def _indexes(before: np.ndarray) -> np.ndarray:
    return (30 + 36 * np.sin(0.37 * np.arange(before.size) + before / 100)).astype(np.float32)


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


def _edited(contents: dict[str, bytes], edits: bytes) -> dict[str, bytes]:
    """The `.npz` files after some edits of their arrays, a few bytes each."""
    arrays = {
        (file, name): array for file, data in contents.items() for name, array in read_arrays(data, Path(file)).items()
    }
    for at in range(0, min(len(edits), 16 * _EDIT) - _EDIT + 1, _EDIT):
        keys = sorted(arrays)
        key, operation = keys[edits[at] % len(keys)], edits[at + 1] % 8
        position = int.from_bytes(edits[at + 2 : at + 4], "little")
        value = int.from_bytes(edits[at + 4 : at + 8], "little", signed=True)
        array = np.array(arrays[key])
        flat = array.reshape(-1)
        if operation <= 2 and flat.size:
            number = _NUMBERS[value % len(_NUMBERS)] if array.dtype.kind in "fc" else value
            with np.errstate(all="ignore"):
                end = position + 1 if operation == 0 else flat.size
                flat[position % flat.size : end] = np.asarray(number).astype(array.dtype)
        elif operation == 3 and flat.size:  # moves a share from one entry to another: sums stay as they were
            a, b = position % flat.size, (position + 1 + abs(value)) % flat.size
            flat[a], flat[b] = flat[b], flat[a]
        elif operation == 4:
            array = array.reshape(-1)[: position % (flat.size + 1)]
        elif operation == 5:
            array = np.zeros(array.shape, _TYPES[position % len(_TYPES)])
        elif operation == 6:
            array = array[None] if value % 2 else array.reshape(-1)
        elif operation == 7:
            del arrays[key]
            if len(arrays) < 2:
                break
            continue
        arrays[key] = array
    out = {}
    for file in contents:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: array for (of, name), array in arrays.items() if of == file})
        out[file] = buffer.getvalue()
    return out


def _staged_seed(bits: int, block: int) -> bytes:
    tables = prepare()[0].bundle.y_tables
    rounding, encoder = Rounding(Guard(bits, block), tables.lengths == 0), StagedEncoder(tables)
    before = np.zeros(300, np.int32)
    for stage in range(3):
        s = _indexes(before)
        shifts = rounding.shifts(s)
        rows = rounding.rows(s, shifts)
        before = np.where(tables.lengths[rows] > 0, (np.arange(s.size) * 7 + stage) % 5 - 2, 0).astype(np.int32)
        before[np.argmax(rows)] = 1000 * stage
        encoder.shifts(shifts)
        encoder.symbols(before, rows)
    return bytes([bits - 8, block - 32]) + encoder.finish()


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
    stream = bitstream.parse(files[2])
    sections = (Section(bitstream.ALPHA, b"a"), Section(bitstream.ICC_PROFILE, b"icc"))
    for guard, extra in ((Guard(12, 1024), ()), (None, sections), (Guard(8, 32), sections)):
        packed = bitstream.pack(replace(stream, guard=guard, sections=extra))
        found += [bytes([0]) + packed, bytes([1]) + packed[:-4]]
    found += [b"\6" + _staged_seed(12, 256), b"\6" + _staged_seed(8, 32)]
    manifest = json.dumps(json.loads(contents[MANIFEST]), separators=(",", ":"))
    found += [b"\2" + manifest.encode(), b"\3" + small[0], b"\4" + small[1]]
    found += [bytes([5, array]) + edit[1:] for array in range(27)]
    return found + [bytes([5, array, operation]) + edit[2:] for array in (2, 7) for operation in range(8)]
