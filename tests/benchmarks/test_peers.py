"""The table of other codecs, at a tiny size: figures come from files, and a run that was cut off goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import OURS, Peer
from ugicm import Codec
from ugicm.runtime.files.images import write_image
from ugicm.runtime.measures.metrics import psnr

FEW = (
    Peer("JPEG, optimised", "JPEG", (10, 60), {"optimize": True}),
    Peer("WebP, method 6", "WEBP", (10, 60), {"method": 6}),
    Peer("absent", "JXL", needs="pillow-jxl-plugin"),
)


@pytest.fixture
def folder(tmp_path: Path, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(peers, "PEERS", FEW)
    monkeypatch.setattr(Peer, "missing", lambda peer: "not installed" if peer.form == "JXL" else "")
    (tmp_path / "images").mkdir()
    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.png", photograph[16 * i : 16 * i + 64, :80])
    return tmp_path


def run(folder: Path, *more: str) -> dict:
    arguments = [str(folder / "images"), "-o", str(folder / "out"), "--threads", "1", "--repeat", "1", *more]
    assert peers.main(arguments) == 0
    return json.loads((folder / "out/peers.json").read_text())  # type: ignore[no-any-return]


def test_figures_are_those_of_files(folder: Path, photograph: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(folder, "--every", "3")
    assert found["images"] == ["0.png"] and found["missing"] == {"absent": "not installed"}
    image, codec = np.ascontiguousarray(photograph[:64, :80]), Codec.from_bundle(threads=1)
    data = codec.encode(image, 3)
    (third,) = [p for p in found["codecs"][OURS]["curve"] if p["setting"] == 3]
    assert third["bpp"] == pytest.approx(8 * len(data) / 5120)
    assert third["psnr"] == pytest.approx(psnr(image, codec.decode(data)))
    row = found["codecs"]["JPEG, optimised"]
    assert row["encode_ms"] > 0 and row["decode_ms"] > 0 and row["timed_at"] in row["curve"]
    printed = capsys.readouterr().out
    assert "not installed" in printed and "1 threads" in printed


def test_one_of_the_others_alone(folder: Path) -> None:
    found = run(folder, "--every", "3", "--only", "WebP, method 6")
    assert set(found["codecs"]) == {OURS, "WebP, method 6"} and not found["missing"]


def test_a_run_that_was_cut_off_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(folder)
    state = folder / "out/peers.jsonl"
    lines = state.read_text().splitlines()
    assert len(lines) == 4
    state.write_text("\n".join([*lines[:3], lines[3][:50]]))
    measured = []
    real = peers.measure
    monkeypatch.setattr(peers, "measure", lambda *args: measured.append(1) or real(*args))
    again = run(folder)
    assert len(measured) == 1
    for name, row in whole["codecs"].items():
        assert row["curve"] == again["codecs"][name]["curve"]


def test_efforts_are_measured_where_they_are_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run(folder, "--every", "3")
    real, seen = peers.measure, list[tuple[list[int], int]]()
    monkeypatch.setattr(peers, "measure", lambda *args: seen.append((args[2], len(args[3]))) or real(*args))
    more = run(folder, "--every", "3", "--efforts", "1")
    assert seen == [([1], 0)]
    assert more["codecs"]["WebP, method 6"]["curve"] == plain["codecs"]["WebP, method 6"]["curve"]
    rates = more["codecs"][f"{OURS}, effort 1"]["our_rate_percent"]
    assert rates["1"] == 0.0 and rates["0"] > 0
    assert "at effort 1" in capsys.readouterr().out


def test_figures_of_other_options_are_not_mixed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "--every", "3")
    arguments = [str(folder / "images"), "-o", str(folder / "out"), "--threads", "1", "--repeat", "2"]
    assert peers.main(arguments) == 2
    assert "give another folder" in capsys.readouterr().err


def test_settings_that_give_the_same_file_are_one_point() -> None:
    curve = [{"bpp": b, "psnr": db} for b, db in ((0.1, 20.0), (0.1, 20.0), (0.2, 19.5), (0.3, 22.0))]
    assert peers.rising(curve) == [curve[0], curve[3]]
