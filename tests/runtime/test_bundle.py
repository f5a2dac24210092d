from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ugicm import Codec
from ugicm.calibration.int8.int8_bundle import view_model
from ugicm.runtime.admission import admitted_runner, graph_runner, reproduces
from ugicm.runtime.backends import open_backend
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.catalogue import find_bundle
from ugicm.runtime.commands.cli import main
from ugicm.runtime.errors import BackendError, BundleError, CodecMismatchError, UgicError, VersionError
from ugicm.runtime.exact_reference import reference_runner
from ugicm.runtime.manifest import MANIFEST, read_manifest


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((bundle / MANIFEST).read_text())
    change(values)
    (bundle / MANIFEST).write_text(json.dumps(values))


@pytest.mark.parametrize("name", sorted(p.name for p in DEFAULT.iterdir() if p.name != MANIFEST))
def test_a_changed_or_missing_file_is_named(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: changed since export"):
        Bundle.open(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        Bundle.open(copy)


def test_a_view_with_a_graph_of_its_own_runs_that(copy: Path, photograph: np.ndarray) -> None:
    plain = Bundle.open(copy)
    machine = view_model(plain, plain.condition_vectors["machine"])
    (copy / "g_s.human.onnx").write_bytes(machine)
    digest = {"sha256": hashlib.sha256(machine).hexdigest(), "bytes": len(machine)}
    edit(copy, lambda v: v["files"].update({"g_s.human.onnx": digest}))
    entry = {"file": "g_s.human.onnx", "inputs": ["features"], "outputs": ["image"]}
    edit(copy, lambda v: v["graphs"].update({"g_s.human": entry}))
    codec = Codec(Bundle.open(copy), open_backend("onnxruntime", threads=1))
    human, other, between = codec.decode_views(codec.encode(photograph), ["human", "machine", 0.5])
    assert np.array_equal(human, other)
    assert not np.array_equal(human, between)


def test_another_format_is_a_version_error(copy: Path) -> None:
    edit(copy, lambda v: v.update(format=3))
    with pytest.raises(VersionError, match="bundle format 3"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("graphs"),
        lambda v: v.update(surprise=1),
        lambda v: v.update(stride=0),
        lambda v: v.update(part="third"),
        lambda v: v.update(codec_id="zz"),
        lambda v: v.update(qualities=10**9),
        lambda v: v["files"].update({"../evil": {"sha256": "", "bytes": 1}}),
        lambda v: v["graphs"]["g_s"].update(file="/etc/passwd"),
        lambda v: v["files"]["g_s.onnx"].update(bytes=2**40),
    ],
)
def test_a_malformed_manifest_is_refused(copy: Path, change: Callable[[dict], object]) -> None:
    edit(copy, change)
    with pytest.raises(BundleError):
        Bundle.open(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_what_is_no_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(UgicError):
        read_manifest(copy)


def test_a_wrong_codec_id_is_refused(copy: Path) -> None:
    edit(copy, lambda v: v.update(codec_id="0123456789abcdef"))
    with pytest.raises(BundleError, match="the manifest says codec id 0123456789abcdef"):
        Bundle.open(copy)


def test_a_link_out_of_the_bundle_is_refused(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (copy / "g_s.onnx").rename(outside)
    (copy / "g_s.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="symbolic link"):
        Bundle.open(copy)


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path / "nothing")


def test_bundles_are_found_by_codec_id(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Bundle.open(DEFAULT).codec_id
    assert find_bundle(wanted) == DEFAULT
    assert find_bundle(wanted, [copy.parent]) == copy
    monkeypatch.setenv("UGICM_BUNDLES", str(copy))
    assert find_bundle(wanted) == copy
    with pytest.raises(CodecMismatchError, match="no bundle with codec id 00"):
        find_bundle(bytes(8))


FAULTY: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (lambda b: (b / MANIFEST).write_text("{"), "not a manifest"),
    "malformed": (lambda b: edit(b, lambda v: v.update(stride=0)), "malformed manifest (a size is out of range)"),
    "another format": (lambda b: edit(b, lambda v: v.update(format=9)), "bundle format 9"),
    "no manifest": (lambda b: (b / MANIFEST).unlink(), "not a bundle (no readable manifest.json)"),
    "a pipe": (lambda b: ((b / MANIFEST).unlink(), os.mkfifo(b / MANIFEST)), "no regular file"),
}


@pytest.mark.parametrize("what", FAULTY)
def test_a_faulty_bundle_that_is_named_says_its_own_fault(
    what: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the shipped codec could read the file: whoever names a bundle means that one."""
    spoil, words = FAULTY[what]
    spoil(copy)
    files = Path(__file__).parents[1] / "golden"
    other, shipped = files / "v1" / "50x70-q2.ugic", files / "heart.ugic"
    for arguments in (
        ("decode", other, "-o", copy.parent / "x.png"),
        ("decode", shipped, "-o", copy.parent / "x.png"),
        ("info", shipped),
    ):
        assert main([*map(str, arguments), "--bundle", str(copy)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {copy}") and words in line
    assert not (copy.parent / "x.png").exists()
    monkeypatch.setenv("UGICM_BUNDLES", str(copy))
    find_bundle(Bundle.open(DEFAULT).codec_id)  # a place to look in, and the shipped codec is found
    with pytest.raises(CodecMismatchError, match=f"not read: {copy}"):
        find_bundle(bytes(8))


def test_faulty_bundles_in_a_named_folder_are_told_where_none_fits(copy: Path) -> None:
    edit(copy, lambda v: v.update(stride=0))
    for i in range(4):
        shutil.copytree(copy, copy.parent / f"{i}")
    assert find_bundle(Bundle.open(DEFAULT).codec_id, [copy.parent]) == DEFAULT
    with pytest.raises(CodecMismatchError, match=f"not read: {copy.parent}/0.*; and 2 more$"):
        find_bundle(bytes(8), [copy.parent])


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(BackendError, match="unknown backend 'abacus'"):
        open_backend("abacus")


def test_the_shipped_graph_is_admitted_and_equals_the_reference() -> None:
    bundle = Bundle.open(DEFAULT)
    assert bundle.exact is not None
    run = graph_runner(bundle, open_backend("onnxruntime", 1))
    assert reproduces(bundle, run)
    z = np.random.default_rng(1).integers(-9, 10, (1, bundle.manifest.hyper_channels, 5, 7)).astype(np.int32)
    for a, b in zip(run(z), reference_runner(bundle.exact)(z), strict=True):
        assert np.array_equal(a, b)


def test_a_backend_that_is_not_exact_is_not_admitted(caplog: pytest.LogCaptureFixture) -> None:
    """One that gets a single scale index wrong does the exact path on the reference, says so, and decodes right."""

    class Wrong:
        name = "wrong"

        def load(self, model: bytes, name: str):  # type: ignore[no-untyped-def]
            graph = open_backend("onnxruntime", 1).load(model, name)

            def run(inputs):  # type: ignore[no-untyped-def]
                outputs = graph(inputs)
                if name == "h_s":
                    outputs[0].flat[0] ^= 1
                return outputs

            return run

    bundle = Bundle.open(DEFAULT)
    wrong = Codec(bundle, Wrong())
    image = np.random.default_rng(2).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    data = wrong.encode(image)
    assert data == Codec.from_bundle(threads=1).encode(image)
    assert "wrong is not admitted for the exact path" in caplog.text
    assert admitted_runner(bundle, Wrong()) is not None


def test_a_manifest_takes_the_memory_of_its_own_size() -> None:
    """Where a large picture has left little memory, a buffer of the largest size was too much for the next file."""
    read_manifest(DEFAULT)
    tracemalloc.start()
    read_manifest(DEFAULT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
