"""`ugicm conformance`: one row a codec, coder and backend; a file that is refused is a line and status 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ugicm.runtime import range_coder
from ugicm.runtime.commands import conformance
from ugicm.runtime.commands.cli import main
from ugicm.runtime.commands.conformance import STREAMS

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(autouse=True)
def two_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all levels and thread counts, for the time that they take."""
    every = conformance.configurations
    monkeypatch.setattr(conformance, "configurations", lambda *a: [c for i, c in enumerate(every(*a)) if i in (0, 6)])


def test_every_coder_decodes_the_shipped_streams(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["coder"] for row in facts["rows"]] == ["constriction", "numba"]
    files = len(list(STREAMS.glob("*.ugic")))
    for row in facts["rows"]:
        assert (row["versions"], row["settings"], row["decoded"], row["refused"]) == ([1, 2], 2, 2 * files, [])
        assert row["pixels"] <= 1
    assert "EMULATED" not in facts["machine"]


def test_a_folder_brings_its_bundle_and_a_wrong_symbol_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GOLDEN / "v2-raster", tmp_path / "a")
    assert main(["conformance", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "mbt2018, staged" in output and "refused:" not in output
    read = range_coder.SubstreamDecoder.symbols

    def wrong(self, rows, out) -> None:  # type: ignore[no-untyped-def]
        read(self, rows, out)
        out[:1] += 1

    monkeypatch.setattr(range_coder.SubstreamDecoder, "symbols", wrong)
    assert main(["conformance", str(tmp_path)]) == 1
    assert "refused: mbt2018, staged, numba, onnxruntime (CPU), all, 1 threads:" in capsys.readouterr().out


def test_no_files_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", str(tmp_path)]) == 2
    assert "no .ugic files; name a folder that holds some" in capsys.readouterr().err
