"""`ugicm web`: what it writes, whom it refuses, and how it serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from tests.house import ROOT
from ugicm import Codec
from ugicm.adapters.web import command
from ugicm.adapters.web.library import CDN, DIGESTS, MODULE, PACKAGE, VERSION, WASM, found, installed
from ugicm.adapters.web.serve import ISOLATION, server
from ugicm.adapters.web.site import STATIC

GOLDEN = ROOT / "tests/golden/v1"
FILE = GOLDEN / "50x70-q2.ugic"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Something like the npm package."""
    folder = tmp_path / "node_modules" / PACKAGE
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "9.9.9"}')
    for name in (MODULE, WASM):
        (folder / "dist" / name).write_text(name)
    return folder


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)


def web(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


def test_a_site_from_a_cdn_holds_a_bundle_that_decodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    assert web(GOLDEN / "bundle", "-o", site, "--example", FILE, "--cdn") == 0
    printed = capsys.readouterr().out
    assert f"{PACKAGE} {VERSION}: from a CDN, by digest" in printed and "gzipped" in printed
    told = json.loads((site / "site.json").read_text())
    assert told["onnxruntime"]["wasm"] == {"url": CDN + WASM, "integrity": DIGESTS[WASM]}
    assert told["examples"] == [f"examples/{FILE.name}"] and told["inputLimit"] == 127
    assert {path.name for path in STATIC.iterdir()} <= {path.name for path in site.iterdir()}
    assert "connect-src 'self' https://cdn.jsdelivr.net;" in (site / "index.html").read_text()

    files = {path.name for path in (site / "bundle").iterdir()}
    assert {"g_s.onnx", "exact.npz", "golden.npz"} < files and not files & {"g_a.onnx", "h_a.onnx"}
    codec, whole = (Codec.from_bundle(path, threads=1) for path in (site / "bundle", GOLDEN / "bundle"))
    data = (site / "examples" / FILE.name).read_bytes()
    np.testing.assert_array_equal(codec.decode(data, 0.3), whole.decode(data, 0.3))


def test_the_npm_package_is_found_and_copied(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert web(GOLDEN / "bundle", "-o", "site") == 0  # in node_modules of this folder
    assert f"{PACKAGE} 9.9.9: in the site" in capsys.readouterr().out
    assert (tmp_path / "site/onnxruntime-web" / WASM).read_text() == WASM
    policy = (tmp_path / "site/index.html").read_text()
    assert "connect-src 'self';" in policy
    for folder in (package, package.parent, tmp_path):
        assert installed(folder).version == "9.9.9"
    (package / "dist" / WASM).unlink()
    assert web(GOLDEN / "bundle", "-o", "site", "--onnxruntime-web", package) == 2
    assert f"npm install {PACKAGE}@{VERSION}" in capsys.readouterr().err


def test_the_digests_for_the_cdn_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    library = found()
    if library is None or library.version != VERSION:
        pytest.skip(f"no {PACKAGE} {VERSION} in node_modules or NODE_PATH: its digests are not compared")
    assert library.digests == DIGESTS


def test_a_site_is_written_over_a_site_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert web(GOLDEN / "bundle", "-o", "site") == 0
    assert web(GOLDEN / "bundle", "-o", "site") == 0
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("precious")
    assert web(GOLDEN / "bundle", "-o", "home") == 2
    assert "holds something that is no site" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


def test_arguments_that_make_no_sense_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(GOLDEN / "bundle", encoder)
    manifest = json.loads((encoder / "manifest.json").read_text())
    (encoder / "manifest.json").write_text(json.dumps(manifest | {"part": "encoder"}))
    (tmp_path / "none.ugic").write_bytes(b"GIF89a")
    for arguments, words in (
        ((), "nothing to do"),
        (("-o", "site", "--cdn", "--onnxruntime-web", "."), "exclude each other"),
        (("-o", "missing/site"), "its folder does not exist"),
        (("-o", "site", "--onnxruntime-web", "."), "holds no onnxruntime-web"),
        (("-o", "site", "--example", "none.ugic"), "is not a .ugic file"),
        (("-o", "site", "--example", "gone.ugic"), "cannot be read"),
        (("-o", "site", "--example", FILE), "but the page's is"),  # the shipped codec's
        ((encoder, "-o", "site"), "holds the encoder part only"),
        ((GOLDEN / "bundle", "--serve", "--port", "70000"), "give another with --port"),
    ):
        assert web(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "site").exists()


def test_files_are_served_with_types_and_headers(tmp_path: Path) -> None:
    for name in ("page.js", "library.mjs", "library.wasm"):
        (tmp_path / name).write_text(name)
    with server(tmp_path, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            host, port = running.server_address[:2]
            assert host == "127.0.0.1"
            for name, kind in (
                ("page.js", "text/javascript"),
                ("library.mjs", "text/javascript"),
                ("library.wasm", "application/wasm"),
            ):
                with urlopen(f"http://127.0.0.1:{port}/{name}", timeout=10) as answer:
                    assert answer.headers["Content-Type"] == kind
                    assert {key: answer.headers[key] for key in ISOLATION} == ISOLATION
                    assert answer.read().decode() == name
        finally:
            running.shutdown()
            thread.join()


def test_serve_shows_the_page_until_interrupted(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "ugicm", "web", str(GOLDEN / "bundle"), "--serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a suite in the background has it ignored
    ) as process:
        try:
            assert process.stdout and process.stderr
            address = process.stdout.readline().split()[0]
            with urlopen(address, timeout=10) as answer:
                assert b"Drop a" in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stderr.read() == "error: interrupted\n"
        finally:
            process.kill()
