"""Files of every released format version, decoded by the runtime and by the reference decoder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.coders import each_coder  # noqa: F401
from tests.golden.make import main
from tests.reference import decoder
from ugicm import Codec
from ugicm.runtime import bitstream, exact_reference
from ugicm.runtime.tables import Tables

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("v*/*.ugic"))


@pytest.fixture(scope="module")
def codecs() -> dict[str, Codec]:
    found = {p.parent.name: Codec.from_bundle(p, threads=1) for p in HERE.glob("v*/bundle")}
    return found | {"v2": found["v1"]}  # sections, which no codec knows


def test_there_are_files_of_every_version() -> None:
    versions = {bitstream.parse(f.read_bytes()).version for f in FILES}
    assert versions == set(bitstream.VERSIONS)
    assert {f.parent.name for f in FILES} == {"v1", "v2", "v2-checkerboard", "v2-raster"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_golden_files_decode(path: Path, codecs: dict[str, Codec]) -> None:
    expected = json.loads((path.parent / "expected.json").read_text())[path.name]
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == expected["sha256"]
    height, width = map(int, path.stem.split("-")[0].split("x"))
    codec = codecs[path.parent.name]
    for condition in codec.conditions or (None,):
        image = codec.decode(data, condition)
        assert image.shape == (height, width, 3)
        assert abs(float(image.mean()) - expected[f"mean_{condition}" if condition else "mean"]) < 0.1


PROVED = [path for path in FILES if path.parent.name in ("v1", "v2")]  # not staged: the integers decide


@pytest.mark.parametrize("path", PROVED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_the_reference_decoder_reads_the_same_symbols(path: Path, codecs: dict[str, Codec]) -> None:
    """From the specification, the integer tables and the integer network alone: no constriction, no ONNX."""
    bundle = codecs[path.parent.name].bundle
    assert bundle.exact is not None
    stream = bitstream.parse(path.read_bytes())
    stride = bundle.manifest.stride
    shape = (1, bundle.manifest.hyper_channels, -(-stream.height // stride), -(-stream.width // stride))
    z_rows = np.repeat(np.arange(shape[1]), shape[2] * shape[3])
    z = read([stream.z], z_rows, bundle.z_tables).reshape(shape)
    scale_index, _ = exact_reference.run(bundle.exact, z)
    y = read(list(stream.y), scale_index.ravel(), bundle.y_tables)
    assert bitstream.symbol_checksum(z, y) == stream.symbol_checksum


def read(streams: list[bytes], rows: np.ndarray, tables: Tables) -> np.ndarray:
    lengths = tables.lengths.tolist()
    ends = np.cumsum(lengths).tolist()
    frequencies = [tables.frequencies[end - n : end].tolist() for n, end in zip(lengths, ends, strict=True)]
    symbols = decoder.decode_symbols(streams, rows.tolist(), frequencies, tables.offsets.tolist())
    return np.array(symbols, np.int64).astype(np.int32)


def test_golden_files_are_never_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 2
    assert "never replaced" in capsys.readouterr().err
