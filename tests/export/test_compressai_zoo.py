"""CompressAI's models: the bundle does what they do, every way of saving them is read, the others are refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import zoo_bundles
from tests.compressai_models import WIDTHS, lively, photograph
from ugicm import Codec
from ugicm.calibration.exact.integer import CalibrationError
from ugicm.export import guarding, to_onnx
from ugicm.export.checkpoint import load
from ugicm.export.compressai_zoo import EXACT
from ugicm.export.source import Source
from ugicm.export.tables import TOTAL, mixture_row
from ugicm.runtime import bitstream
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.commands import decode
from ugicm.runtime.commands.verify import verify
from ugicm.runtime.encoder import analysis, container
from ugicm.runtime.errors import BundleError, ConditionError, CorruptFileError, QualityError
from ugicm.runtime.manifest import MANIFEST
from ugicm.runtime.measures.held import held

HEADER = 48  # bytes of a .ugic file with one substream that CompressAI's strings do not have, at most


@dataclass(frozen=True)
class Exported:
    """A model, the bundle of its checkpoint, and what export printed."""

    model: Any
    codec: Codec
    printed: str

    @property
    def has_means(self) -> bool:
        return self.codec.bundle.manifest.architecture == "mbt2018-mean"

    def padded(self, image: np.ndarray) -> Tensor:
        return (
            torch.from_numpy(analysis.padded([image], self.codec.bundle.manifest.stride)[0].copy())
            .permute(2, 0, 1)[None]
            .float()
            / 255
        )

    def parts(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
        """(symbols, table rows, means) of `y` and symbols of `z`, as the runtime has them."""
        y, z = analysis.analysed(self.codec.networks, image, 1)
        rows, mean = self.codec.networks.scales_and_means(z)
        symbols = analysis.symbols_of(self.codec.networks, y, rows, mean)
        return symbols, rows, np.zeros_like(y) if mean is None else mean, z


@pytest.fixture(scope="module", params=[(a, w) for a in EXACT for w in WIDTHS], ids=lambda p: f"{p[0]}-{p[1][0]}")
def exported(request: pytest.FixtureRequest, common: Path) -> Exported:
    """Each architecture at two widths, the first from updated tables, the second from a checkpoint without."""
    architecture, widths = request.param
    folder = zoo_bundles.exported(architecture, common, widths).parent
    model = lively(architecture, *widths)
    model.update(force=True)
    return Exported(model, Codec.from_bundle(folder / "checkpoint", threads=1), (folder / "printed").read_text())


def test_it_is_recognised_and_tables_are_built_where_there_are_none(
    exported: Exported, request: pytest.FixtureRequest
) -> None:
    architecture, widths = request.node.callspec.params["exported"]
    manifest = exported.codec.bundle.manifest
    assert (manifest.architecture, manifest.latent_channels) == (architecture, widths[1])
    assert ("tables were not updated" in exported.printed) == (widths == WIDTHS[1])


@pytest.mark.parametrize("size", [(128, 192), (70, 33), (1, 1)])
def test_the_picture_is_compressais(exported: Exported, size: tuple[int, int]) -> None:
    """Up to one level, in less than a pixel of a thousand, where a value lies between two."""
    image = photograph(*size)
    found = exported.codec.decode(exported.codec.encode(image)).astype(int)
    with torch.no_grad():
        expected = exported.model(exported.padded(image))["x_hat"]
    expected = torch.round(expected.clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()[: size[0], : size[1]]
    assert found.shape == (*size, 3)
    assert np.abs(found - expected).max() <= 1
    assert np.mean(found != expected) < 1e-3


def test_effort_searches_these_too(exported: Exported, request: pytest.FixtureRequest) -> None:
    """Random weights often give no price, and the plain file stays; the hyperprior has one."""
    image, codec = photograph(128, 192), exported.codec
    plain, refined = codec.encode(image), codec.encode(image, effort=1)
    squares = [np.square(codec.decode(data).astype(float) - image).sum() for data in (plain, refined)]
    assert refined == plain or len(refined) < len(plain) or squares[1] < squares[0]
    if request.node.callspec.params["exported"] == ("bmshj2018-hyperprior", WIDTHS[0]):
        assert squares[1] < 0.97 * squares[0]


@torch.no_grad()
def test_twelve_megapixels(exported: Exported, request: pytest.FixtureRequest) -> None:
    """Larger than a tile, and no multiple of the stride: the file holds CompressAI's symbols and shows their picture.

    Twelve megapixels of one architecture; of the others as many tiles, of a ninth of the pixels. CompressAI's forward
    pass as a whole is no reference for so many: a symbol on a tie falls either way, by PyTorch's number of threads too,
    and a tie of `z` moves the means of a large area.
    """
    architecture, widths = request.node.callspec.params["exported"]
    if widths != WIDTHS[0]:
        return
    model, codec = exported.model, Codec.from_bundle(exported.codec.bundle.path, threads=1)
    image = np.tile(photograph(400, 400), (8, 10, 1))[:3000, :4000]
    if architecture != "mbt2018-mean":
        image = image[:1000, :1333]
        area = codec.networks.area
        area.work, area.smallest, area.largest = area.work / 9, area.smallest / 9, area.largest / 9
    height, width = image.shape[:2]
    assert height * width > codec.networks.area.pixels, "larger than a tile"
    data = codec.encode(image)
    symbols, found = held(codec, data), codec.decode(data)
    assert found.shape == image.shape
    y, mean = model.g_a(exported.padded(image)), model.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
    if hasattr(model, "h_s"):
        z = torch.from_numpy(symbols.z) + mean
        assert (model.h_a(y if exported.has_means else y.abs()) - z).abs().max() <= 0.5 + 1e-3
        mean = model.h_s(z).chunk(2, 1)[1] if exported.has_means else torch.zeros_like(y)
    y_hat = torch.from_numpy(symbols.y) + mean
    assert (y - y_hat).abs().max() <= 0.5 + 1e-3
    expected = model.g_s(y_hat).clamp_(0, 1).mul_(255).round_()[0].permute(1, 2, 0)[:height, :width].numpy()
    different = np.abs(found - expected)
    assert different.max() <= 1 and np.mean(different > 0) < 1e-3


@torch.no_grad()
def test_symbols_are_compressais(exported: Exported) -> None:
    """But for values that lie within a thousandth of a tie."""
    model, image = exported.model, photograph(128, 192)
    symbols, _, mean, z = exported.parts(image)
    y = model.g_a(exported.padded(image))
    medians = model.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
    assert medians.abs().max() > 0.1
    pairs = [((y - torch.from_numpy(mean)).numpy(), symbols)]
    if hasattr(model, "h_s"):
        pairs.append(((model.h_a(y if exported.has_means else y.abs()) - medians).numpy(), z))
    else:
        pairs = [((y - medians).numpy(), symbols)]
    for values, found in pairs:
        assert np.abs(values - found).max() <= 0.5 + 1e-3
        assert np.mean(np.rint(values) != found) < 1e-3
        assert np.mean(found != 0) > 0.2


@torch.no_grad()
def test_means_are_compressais_and_scales_nearly(exported: Exported) -> None:
    """Integers cost what the size shows: next to nothing. Few scale indexes differ, by one row."""
    model = exported.model
    _, rows, mean, z = exported.parts(photograph(128, 192))
    if not hasattr(model, "h_s"):
        assert np.array_equal(rows[0, :, 3, 4], np.arange(rows.shape[1])) and not mean.any()
        return
    medians = model.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
    parameters = model.h_s(torch.from_numpy(z) + medians)
    scales, means = parameters.chunk(2, 1) if exported.has_means else (parameters, None)
    difference = np.abs(model.gaussian_conditional.build_indexes(scales).numpy() - rows)
    assert len(np.unique(rows)) > 25
    assert difference.max() <= 2 and np.mean(difference > 0) < 0.2
    if means is not None:
        assert mean.std() > 0.1 and np.abs(means.numpy() - mean).max() < 1e-3


def test_the_file_is_as_small_as_compressais(exported: Exported) -> None:
    image = photograph(256, 256)
    with torch.no_grad():
        theirs = sum(len(s[0]) for s in exported.model.compress(exported.padded(image))["strings"])
    assert theirs > 1000
    assert len(exported.codec.encode(image)) <= 1.01 * theirs + HEADER


def test_one_quality_and_one_view(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = exported.codec
    data = codec.encode(photograph(20, 20))
    assert data == codec.encode(photograph(20, 20), 1) and bitstream.parse(data).quality == 1
    with pytest.raises(QualityError):
        codec.encode(photograph(20, 20), 2)
    with pytest.raises(ConditionError, match="one view; leave --condition out"):
        codec.decode(data, "human")
    (tmp_path / "x.ugic").write_bytes(data)
    arguments = [str(tmp_path / "x.ugic"), "-o", str(tmp_path / "x.png"), "--bundle", str(codec.bundle.path)]
    assert decode.main([*arguments, "--condition", "machine"]) == 2
    assert "leave --condition out" in capsys.readouterr().err
    assert decode.main(arguments) == 0 and (tmp_path / "x.png").exists()


def test_without_a_hyperprior_there_is_nothing_to_prove_and_headers_are_still_bounded(exported: Exported) -> None:
    codec = exported.codec
    if codec.bundle.manifest.hyper_channels:
        assert all(v.admitted for v in verify(codec.bundle, "onnxruntime"))
        return
    assert codec.bundle.manifest.stride == 16 and codec.bundle.exact is None
    with pytest.raises(BundleError, match="no exact path to verify"):
        verify(codec.bundle)
    stream = bitstream.parse(codec.encode(photograph(20, 20)))
    claimed = Bitstream(stream.codec_id, 1, 16000, 16000, stream.z, stream.y, stream.symbol_checksum)
    with pytest.raises(CorruptFileError, match="cannot hold 16000×16000 pixels"):
        codec.decode(container.pack(claimed))


def test_a_manifest_that_contradicts_the_files_is_refused(exported: Exported, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported.codec.bundle.path, tmp_path / "bundle"))
    values = json.loads((copy / MANIFEST).read_text())
    values.update(hyper_channels=0 if values["hyper_channels"] else 8, stride=16)
    (copy / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BundleError, match="do not fit the manifest"):
        Bundle.open(copy)


def test_wide_layers_get_fewer_activation_bits(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(states["bmshj2018-hyperprior"], tmp_path / "x.pth")
    source = load(tmp_path / "x.pth")

    def refuse_eight(source: Source, samples: np.ndarray, activation_bits: int, **bits: int) -> None:
        if activation_bits > 7:
            raise CalibrationError("no")

    monkeypatch.setattr(to_onnx, "integer_hyper_synthesis", refuse_eight)
    samples = np.zeros((4, 8, 2, 2), np.int32)
    assert to_onnx.provable(source, samples, {}) == {"activation_bits": 7}
    assert to_onnx.provable(source, samples, {"activation_bits": 8}) == {"activation_bits": 8}


@pytest.mark.parametrize("architecture", ["bmshj2018-hyperprior", "mbt2018-mean"])
def test_a_hyper_synthesis_without_a_proof_is_guarded(
    architecture: str,
    states: dict[str, dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a limit that its accumulators reach, as wide layers reach 2^24: one stage, CompressAI's rows and symbols."""
    torch.save(states[architecture], tmp_path / "x.pth")
    monkeypatch.setattr(to_onnx, "Settings", partial(to_onnx.Settings, limit=2000))
    monkeypatch.setattr(guarding, "measure_deviation", partial(guarding.measure_deviation, latents=0))
    assert to_onnx.main([str(tmp_path / "x.pth"), "-o", str(tmp_path / "x")]) == 0
    out = capsys.readouterr().out
    assert sum("for want of a proof: h_s/conv0: an accumulator can reach" in line for line in out.splitlines()) == 1
    codec = Codec.from_bundle(tmp_path / "x", threads=1)
    schedule = codec.bundle.manifest.schedule
    assert codec.bundle.exact is None and schedule is not None and [s.graph for s in schedule.stages] == ["scales"]
    image = photograph(70, 100)
    data = codec.encode(image)
    y, z = analysis.analysed(codec.networks, image, 1)
    model = lively(architecture, *WIDTHS[0]).double()
    with torch.no_grad():
        hyper = model.h_s(torch.from_numpy(z).double() + model.entropy_bottleneck._get_medians())
    scales, mean = hyper.chunk(2, 1) if architecture == "mbt2018-mean" else (hyper, torch.zeros_like(hyper))
    symbols = np.rint(np.asarray(y) - mean.numpy())
    assert bitstream.parse(data).symbol_checksum == bitstream.symbol_checksum(z, symbols.astype(np.int32))
    table = torch.from_numpy(load(tmp_path / "x.pth").scales)
    rows = (scales.flatten()[:, None] > table[:-1]).sum(1).numpy()
    found = codec.networks.graph("scales")({"hyper": hyper.float().numpy()})[0].ravel()
    assert np.count_nonzero(np.clip(np.rint(found), 0, 63) != rows) <= 1e-3 * rows.size
    assert codec.decode(data).shape == image.shape


def test_layers_that_fit_no_integers_stay_an_error(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(states["mbt2018-mean"], tmp_path / "x.pth")
    monkeypatch.setattr(to_onnx, "integer_hyper_synthesis", Mock(side_effect=CalibrationError("not finite")))
    assert to_onnx.main([str(tmp_path / "x.pth")]) == 2


def test_a_floor_bounds_what_unlikely_symbols_cost() -> None:
    plain, floored = (mixture_row(np.ones(1), np.full(1, 2.0), 1e-9, floor)[0] / TOTAL for floor in (0.0, 2.0**-16))
    assert plain.min() < 2.0**-23 and floored.min() > 2.0**-16.1
    assert -np.sum(plain * np.log2(floored / plain)) < 2e-3  # bits a symbol, where the model is right


OLD = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}


def renamed(old: dict[str, str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for key, value in state.items():
            for new, name in old.items():
                key = key.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{name}")
            out[key] = value
        return out

    return change


WAYS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda s: s,
    "trainer": lambda s: {"epoch": 1, "loss": 2.0, "state_dict": s, "optimizer": {"state": {}, "param_groups": []}},
    "network": lambda s: {"network": s},
    "parallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "old names": renamed(OLD),
    "older names": renamed({new: f"_{new}" for new in OLD}),
    "no tables at all": lambda s: {k: v for k, v in s.items() if "_cdf" not in k and "_offset" not in k},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {a: lively(a, *WIDTHS[0]).state_dict() for a in EXACT}


def content(source: Source) -> list[np.ndarray]:
    weights = [p.detach().numpy() for g in source.graphs.values() for p in g.module.parameters()]
    layers = source.hyper_synthesis.layers if source.hyper_synthesis else []
    tables = source.z_probabilities if source.y_probabilities is None else source.y_probabilities
    return [*weights, *(layer.weight for layer in layers), source.scales, tables]


@pytest.mark.parametrize("way", [w for w in WAYS if w != "bare"])
@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean"])
def test_every_way_of_saving_gives_the_same_codec(
    way: str, architecture: str, states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    sources = []
    for name in ("bare", way):
        torch.save(WAYS[name](dict(states[architecture])), tmp_path / name)
        sources.append(load(tmp_path / name))
    assert sources[0].architecture == sources[1].architecture == architecture
    for a, b in zip(*(content(s) for s in sources), strict=True):
        assert np.array_equal(a, b)


def test_the_checkpoints_own_scale_table_counts(tmp_path: Path) -> None:
    model = lively("bmshj2018-hyperprior", *WIDTHS[0])
    model.update(scale_table=[0.11, 0.5, 2.0, 8.0], force=True)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    source = load(tmp_path / "x.pth")
    assert np.allclose(source.scales, [0.11, 0.5, 2.0, 8.0]) and not source.notes


def test_what_is_not_served_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pth"
    torch.save({"g_a.0.weight": torch.zeros(1), "cc_mean_transforms.0.0.weight": torch.zeros(1)}, path)
    assert to_onnx.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: a channel-conditional model is not served: ") and error.count("\n") == 1
    assert "does not know the networks of its stages" in error and "such as elic2022-official or cheng2020" in error


def test_arch_overrides_what_the_keys_say(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    torch.save(states["mbt2018-mean"], path)
    assert load(path, "mbt2018-mean").architecture == "mbt2018-mean"
    for name, words in (
        ("bmshj2018-hyperprior", "its weights are not those of bmshj2018-hyperprior"),
        ("bmshj2018-factorized", "(h_a.0.weight is none of them); is --arch right?"),
        ("jpeg", "unknown architecture 'jpeg'; there are bmshj2018-factorized, "),
        ("STF", "a STF model is not served: "),
    ):
        assert to_onnx.main([str(path), "--arch", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: ") and words in error and error.count("\n") == 1


def test_weights_that_are_not_finite_are_refused(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {k: v.clone() for k, v in states["bmshj2018-hyperprior"].items()}
    state["g_a.0.weight"][0, 0, 0, 0] = math.nan
    torch.save(state, tmp_path / "x.pth")
    assert to_onnx.main([str(tmp_path / "x.pth")]) == 2
    assert "some of its weights are not finite" in capsys.readouterr().err
