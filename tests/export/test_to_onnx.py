from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from math import erf
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.runtime.steps import decoded_latents
from tests.small import lively, lively_exported
from ugicm import Codec
from ugicm.export import to_onnx
from ugicm.export.graphs import store_halves
from ugicm.export.tables import TOTAL, factorised_tables, integer_row, latent_tables, mixture_row
from ugicm.models.entropy import SCALE_ROWS, LatentModel
from ugicm.models.ugicm import UGICM, UGICMConfig, checkerboard
from ugicm.runtime import bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import PartError
from ugicm.runtime.manifest import MANIFEST

BACKBONES = ("fast", "bmshj2018")


@pytest.fixture(scope="module", params=BACKBONES)
def exported(request: pytest.FixtureRequest, common: Path) -> tuple[UGICM, Path, Path]:
    """(model, checkpoint, bundle) of each backbone."""
    return lively(request.param).eval(), *lively_exported(request.param, common)


def digests(bundle: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in bundle.iterdir()}


def test_the_bundle_does_what_the_model_does(exported: tuple[UGICM, Path, Path]) -> None:
    """Given the integer means, the runtime's latents are PyTorch's and its pictures within one grey level."""
    model, _, bundle = exported
    codec = Codec.from_bundle(bundle, threads=1)
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    for quality in (1, 2):
        data = codec.encode(image, quality)
        y_hat = torch.from_numpy(decoded_latents(codec, data))
        index = torch.tensor([quality - 1])
        with torch.no_grad():
            y = model.analyse(x, index)
            z = torch.round(model.h_a(y)).numpy().astype(np.int32)
            scale_index, means = codec.networks.scales_and_means(z)
            mean = torch.zeros_like(y) if means is None else torch.from_numpy(means)
            coded = torch.from_numpy((codec.bundle.y_tables.lengths > 0)[scale_index]).float()
            if model.context is not None:
                anchor = checkerboard(*y.shape[2:])
                mean = anchor * mean + (1 - anchor) * model.context(mean + torch.round(y - mean) * coded * anchor)
            expected = mean + torch.round(y - mean) * coded
            assert coded.mean() > 0.3
            assert ((y_hat - expected).abs() > 1e-3).float().mean() < 5e-3  # a tie moves what follows
            for condition, beta in (("human", 0.0), ("machine", 1.0), (0.3, 0.3)):
                x_hat = model.synthesise(y_hat, index, torch.tensor([beta]))
                picture = torch.round(x_hat.clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()
                assert np.abs(codec.decode(data, condition).astype(int) - picture).max() <= 1


def test_scale_head_spreads_over_the_table(exported: tuple[UGICM, Path, Path]) -> None:
    codec = Codec.from_bundle(exported[2], threads=1)
    z = np.zeros((1, codec.bundle.manifest.hyper_channels, 4, 4), np.int32)
    scale_index, _ = codec.networks.scales_and_means(z)
    assert len(np.unique(scale_index)) >= 6


def test_halves_share_the_codec_id_and_exporting_again_gives_the_same_bytes(
    exported: tuple[UGICM, Path, Path], tmp_path: Path
) -> None:
    _, checkpoint, bundle = exported
    whole, names = digests(bundle), set[str]()
    for part in ("encoder", "decoder"):
        assert to_onnx.main([str(checkpoint), "-o", str(tmp_path / part), "--part", part]) == 0
        found = digests(tmp_path / part)
        names |= found.keys()
        assert all(found[name] == whole[name] for name in found if name != MANIFEST)
        manifest = Bundle.open(tmp_path / part).manifest
        assert manifest.graphs.keys() == {name.removesuffix(".onnx") for name in manifest.files if ".onnx" in name}
        rest = {"part": "both", "graphs": {}, "files": {}, "views": ()}
        assert replace(manifest, **rest) == replace(Bundle.open(bundle).manifest, **rest)
    assert names == whole.keys()
    encoder, decoder = (Codec.from_bundle(tmp_path / part, threads=1) for part in ("encoder", "decoder"))
    assert encoder.codec_id == decoder.codec_id == Bundle.open(bundle).codec_id
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encoder.encode(image, 1)
    assert decoder.decode(data).shape == image.shape
    with pytest.raises(PartError, match="holds the encoder part only"):
        encoder.decode(data)
    with pytest.raises(PartError, match="holds the decoder part only"):
        decoder.encode(image, 1)


def test_graphs_tell_nothing_of_this_machine(exported: tuple[UGICM, Path, Path]) -> None:
    for path in exported[2].glob("*.onnx"):
        data = path.read_bytes()
        assert not re.search(rb"site-packages|stack_trace|/home/|\.py\b", data), path.name
        model = onnx.load(path, load_external_data=False)
        assert model.opset_import[0].version == 20
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        assert not any(name.startswith("node_") for name in names)
        assert not any(node.op_type == "ConvTranspose" for node in model.graph.node)


def test_the_proof_is_in_the_manifest(exported: tuple[UGICM, Path, Path]) -> None:
    manifest = Bundle.open(exported[2]).manifest
    assert len(manifest.proof) == 3
    assert all(0 < entry["largest_accumulator"] < 2**24 for entry in manifest.proof)


def test_a_file_names_its_bundle(exported: tuple[UGICM, Path, Path]) -> None:
    codec = Codec.from_bundle(exported[2], threads=1)
    data = codec.encode(np.zeros((5, 5, 3), np.uint8), 1)
    assert bitstream.parse(data).codec_id == codec.codec_id


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a checkpoint that loads"),
        (b"hello", "not a checkpoint that loads"),
        ([1, 2], "holds a list"),
        ({"epoch": 3, "net": {}}, "a checkpoint of something else (keys epoch, net"),
        ({"format": "ugicm-checkpoint-1", "config": {"backbone": "slow"}}, "do not fit"),
        (
            {"format": "ugicm-checkpoint-1", "config": UGICMConfig.named("fast").to_dict(), "state_dict": {}},
            "do not fit",
        ),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    content: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert to_onnx.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and words in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    assert to_onnx.main([str(tmp_path / "evil.pt")]) == 2
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().err.startswith("error: ")


def test_a_folder_that_is_no_bundle_is_not_replaced(
    exported: tuple[UGICM, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "My extension", "manifest_version": 3}')
    (tmp_path / "precious.txt").write_text("x")
    assert to_onnx.main([str(exported[1]), "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds something that is no bundle" in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "precious.txt"]


def test_integer_rows_sum_exactly() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 50, 3000):
        row = integer_row(rng.random(n) ** 8, 1e-7)
        assert row.sum(dtype=np.int64) == TOTAL and row.min() >= 1 and len(row) == n + 1


def test_a_row_is_the_distribution_of_a_rounded_mixture() -> None:
    frequencies, offset = mixture_row(np.array([0.75, 0.25]), np.array([1.0, 3.0]))
    assert len(frequencies) == 2 * -offset + 2
    p = frequencies[:-1] / TOTAL
    assert np.array_equal(p, p[::-1])
    assert abs(np.sum(p * np.arange(offset, -offset + 1) ** 2.0) - (0.75 * 1 + 0.25 * 9 + 1 / 12)) < 1e-3
    assert abs(p[-offset] - sum(w * erf(0.5 / s / 2**0.5) for w, s in ((0.75, 1.0), (0.25, 3.0)))) < 1e-6


def test_tables_are_the_likelihoods_of_the_model() -> None:
    model = LatentModel().double()
    with torch.no_grad():
        rows = torch.arange(SCALE_ROWS).double()
        components = model.components(rows)
        shares, scales = (np.stack([c[i].numpy() for c in components], 1) for i in (0, 1))
        tables = latent_tables(shares, scales, 1e-4)
        starts = np.cumsum(tables["y_lengths"]) - tables["y_lengths"]
        for row in (5, 20, 63):
            length, offset = int(tables["y_lengths"][row]), int(tables["y_offsets"][row])
            symbols = torch.arange(offset, offset + length - 1).double()
            expected = model(symbols, torch.zeros_like(symbols), rows[row].expand_as(symbols)).numpy()
            found = tables["y_frequencies"][starts[row] : starts[row] + length - 1] / TOTAL
            assert np.abs(found - expected).max() < length / TOTAL, "each entry keeps a 2^24th, and is rounded down"


def test_narrow_rows_are_skipped() -> None:
    tables = latent_tables(np.ones((3, 1)), np.array([[0.11], [0.2], [1.0]]), 1e-4)
    assert tables["y_lengths"][0] == 0 and tables["y_lengths"][1] > 0
    z = factorised_tables(np.array([[0.0, 1.0, 0.0], [0.2, 0.5, 0.3]]))
    assert z["z_lengths"].tolist() == [2, 4] and z["z_offsets"].tolist() == [0, -1]


def test_half_storage_loses_nothing() -> None:
    values = {"exact": np.arange(64, dtype=np.float32), "not": np.full(64, 1 / 3, np.float32)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["exact", "not"], ["y"], name="add")],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("y", 1, [64])],
        [onnx.numpy_helper.from_array(v, k) for k, v in values.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    store_halves(model)
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types == {"exact.half": onnx.TensorProto.FLOAT16, "not": onnx.TensorProto.FLOAT}
    assert [n.op_type for n in model.graph.node] == ["Cast", "Add"]
