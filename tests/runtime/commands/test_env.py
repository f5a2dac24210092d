"""`ugicm env` says what works, having tried it."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata

import pytest

from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.commands import env
from ugicm.runtime.commands.cli import main
from ugicm.runtime.errors import BackendError, BundleError


def test_backends_are_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["numpy"] == metadata.version("numpy")
    assert facts["cpu"]["usable"] >= 1 and facts["cpu"]["model"]
    states = {backend["name"]: backend for backend in facts["backends"]}
    assert set(states) == set(env.NAMES)
    assert states["onnxruntime"] == {"name": "onnxruntime", "works": True, "exact": True, "reason": ""}
    for backend in facts["backends"]:
        assert backend["works"] or backend["reason"], "what does not work has a reason"
    manifest = Bundle.open(DEFAULT).manifest
    assert {"path": str(DEFAULT), "codec_id": manifest.codec_id} in facts["bundles"]


def test_a_backend_that_fails_is_a_line_and_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it fails with: a broken installation is what a report is written for."""

    def broken(name: str, **_: object) -> None:
        raise (
            ImportError("libcudnn.so.9: cannot open shared object file\nand more")
            if name == env.NAMES[0]
            else (BackendError("no GPU"))
        )

    monkeypatch.setattr(env, "open_backend", broken)
    assert main(["env"]) == 0
    output, error = capsys.readouterr()
    assert "onnxruntime: does not work: libcudnn.so.9: cannot open shared object file and more\n" in output
    assert error == ""


def test_a_backend_that_is_not_exact_is_called_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(env, "reproduces", lambda *_: False)
    assert main(["env"]) == 0
    assert "onnxruntime: works: differs from the golden vectors" in capsys.readouterr().out


def test_a_broken_bundle_and_a_hanging_nvidia_smi_do_not_stop_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: object) -> None:
        raise BundleError(f"{path}: changed since export")

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(Bundle, "open", refuse)
    monkeypatch.setattr(subprocess, "run", hang)
    assert main(["env"]) == 0
    output = capsys.readouterr().out
    assert "unusable" in output and "changed since export" in output and "none that nvidia-smi shows" in output
