"""Files of every released format version, decoded by the runtime and by the reference decoder."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.coders import each_coder  # noqa: F401
from tests.golden.make import main
from tests.reference import decoder, staged
from ugicm import Codec
from ugicm.runtime import bitstream, exact_reference
from ugicm.runtime.schedule import POSITIONS, Stage
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
    assert {f.parent.name for f in FILES} == {"v1", "v2", "v2-checkerboard", "v2-raster", "v2-ugicm"}


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


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.parent.name in ("v2-checkerboard", "v2-ugicm")],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_the_reference_decoder_reads_stages(path: Path, codecs: dict[str, Codec]) -> None:
    """From the specification and the integer tables, graphs by ONNX's reference: no constriction, no ONNX Runtime."""
    bundle = codecs[path.parent.name].bundle
    m, file = bundle.manifest, staged.read_file(path.read_bytes())
    assert file.version == 2 and file.band_bits and m.schedule is not None
    height, width = (-(-n // m.stride) for n in (file.height, file.width))
    z_rows = np.repeat(np.arange(m.hyper_channels), height * width)
    z = read([file.z], z_rows, bundle.z_tables).reshape(1, -1, height, width)
    shape = (m.latent_channels, height * m.stride // m.latent_stride, width * m.stride // m.latent_stride)
    y, y_hat = np.zeros(shape, np.int32), np.zeros((1, *shape), np.float32)
    parity = np.add.outer(np.arange(shape[1]), np.arange(shape[2])) % 2
    known = {"z": z.astype(np.float32), "y_hat": y_hat, "even": (parity == 0).astype(np.float32)[None, None]}

    def run(name: str) -> None:
        model = onnx.load_model_from_string(bundle.graph(name)[1])
        inputs = {i.name: known[i.name] for i in model.graph.input}
        known.update(zip(bundle.graph(name)[0].outputs, ReferenceEvaluator(model).run(None, inputs), strict=True))

    def end(stage: Stage, symbols: list[int]) -> None:
        there = np.isin(parity, POSITIONS[stage.positions])
        part = np.array(symbols, np.int64).astype(np.int32).reshape(-1, np.count_nonzero(there))
        y[slice(*stage.channels)][:, there] = part
        y_hat[0, slice(*stage.channels)][:, there] = part + known["mean"][0][:, there]
        if stage.after is not None:
            run(stage.after)
            y_hat[0, slice(*stage.channels)][:, there] += known["lrp"][0][:, there]

    def beginning(i: int) -> Callable[[list[list[int]]], list[float]]:
        def indexes(done: list[list[int]]) -> list[float]:
            if i:
                end(stages[i - 1], done[-1])
            run(stages[i].graph)
            there = np.isin(parity, POSITIONS[stages[i].positions])
            return known["index"][0][:, there].ravel().tolist()

        return indexes

    run("h_s")
    stages = m.schedule.stages
    tables = (lists(bundle.y_tables), bundle.y_tables.offsets.tolist())
    asked = [beginning(i) for i in range(len(stages))]
    done = staged.decode_staged(file.y[0], asked, file.band_bits, file.block, *tables)
    end(stages[-1], done[-1])
    modulo = np.concatenate([z.ravel(), y.ravel()]).astype("<u2")
    assert zlib.crc32(modulo.tobytes()) == file.symbol_checksum


def read(streams: list[bytes], rows: np.ndarray, tables: Tables) -> np.ndarray:
    symbols = decoder.decode_symbols(streams, rows.tolist(), lists(tables), tables.offsets.tolist())
    return np.array(symbols, np.int64).astype(np.int32)


def lists(tables: Tables) -> list[list[int]]:
    """The frequencies of each row."""
    ends = np.cumsum(tables.lengths).tolist()
    return [tables.frequencies[end - n : end].tolist() for n, end in zip(tables.lengths.tolist(), ends, strict=True)]


def test_golden_files_are_never_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 2
    assert "never replaced" in capsys.readouterr().err
