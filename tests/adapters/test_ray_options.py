"""`--ray` where there is no Ray, or no sense in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ugicm.runtime.commands import cli


def test_ray_is_for_folders_and_needs_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"x")
    folder = ["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--ray", "local"]
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ugicm.adapters.ray", raising=False)
    for arguments, words in (
        (["encode", str(tmp_path / "in/a.png"), "-o", "x.ugic", "--ray", "local"], "--ray is for a folder of inputs"),
        ([*folder, "--preserve"], "--preserve is not for --ray"),
        (folder, "--ray needs "),
    ):
        assert cli.main(arguments) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
