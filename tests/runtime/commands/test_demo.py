"""The demo: what it writes and says, with the shipped bundle."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ugicm.runtime.commands import demo
from ugicm.runtime.commands.demo import JpegMatch, Result, comparison, jpeg_at
from ugicm.runtime.files.images import read_image, write_image
from ugicm.runtime.measures.metrics import psnr

ROOT = Path(__file__).parents[3]


def picture(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 60 * np.sin(rows / 5 + c) + 60 * np.cos(columns / (3 + c)) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)


def run(folder: Path, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ugicm", "demo", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_demo_runs_without_arguments_and_without_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    text = run(tmp_path)
    lines = text.splitlines()
    assert "PyTorch imported: no" in lines
    assert lines[-1].startswith("next: ugicm encode ")
    assert "\x1b" not in text and "JPEG PSNR" in text
    out = tmp_path / "demo-output"
    expected = {"astronaut.comparison.png"}
    for quality in (2, 4, 6):
        expected |= {f"astronaut.q{quality}.{end}" for end in ("ugic", "human.png", "machine.png")}
    assert {path.name for path in out.iterdir()} == expected
    # As many bytes as the table says, and the more of them the closer the view.
    rows = [line.split() for line in lines if line.strip()[:1].isdigit() and "dB" in line]
    assert [int(row[1].replace(",", "")) for row in rows] == [
        (out / f"astronaut.q{quality}.ugic").stat().st_size for quality in (2, 4, 6)
    ]
    assert [float(row[3]) for row in rows] == sorted(float(row[3]) for row in rows)


def test_the_demo_takes_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", picture(40, 25))
    text = run(tmp_path, "small.png", "-o", "here")
    assert "small: 25x40 pixels" in text and "here/small.comparison.png" in text
    assert read_image(tmp_path / "here" / "small.q2.machine.png").shape == (40, 25, 3)


def test_without_scikit_image_the_demo_draws_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    assert demo.main(["-o", str(tmp_path / "out")]) == 0
    assert "a drawn picture takes its place" in capsys.readouterr().out
    assert read_image(tmp_path / "out" / "drawing.q4.human.png").shape == (512, 512, 3)


def test_an_image_beyond_jpeg_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "long.png", np.zeros((1, 65501, 3), np.uint8))
    assert demo.main([str(tmp_path / "long.png"), "-o", str(tmp_path / "out")]) == 2
    assert "65500" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_jpeg_is_compared_at_the_same_bytes() -> None:
    pixels = picture(64, 96)

    def size_and_psnr(quality: int) -> tuple[int, float]:
        buffer = io.BytesIO()
        image = Image.fromarray(pixels)
        image.save(buffer, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
        return len(buffer.getvalue()), psnr(pixels, np.asarray(Image.open(buffer)))

    for quality in (10, 50, 90):
        size, value = size_and_psnr(quality)
        match = jpeg_at(pixels, size)
        assert match.bytes == size and match.psnr == pytest.approx(value, abs=0.1)  # two may be as long
        assert match.psnr_at_bytes == pytest.approx(value, abs=0.1)
        np.testing.assert_equal(psnr(pixels, match.pixels), match.psnr)
    (low, low_psnr), (high, high_psnr) = size_and_psnr(40), size_and_psnr(80)
    between = jpeg_at(pixels, (low + high) // 2).psnr_at_bytes
    assert between is not None and low_psnr <= between <= high_psnr
    assert jpeg_at(pixels, 10).psnr_at_bytes is None and jpeg_at(pixels, 10).quality == 1
    assert jpeg_at(pixels, 10**6).psnr_at_bytes is None and jpeg_at(pixels, 10**6).quality == 100


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (70, 90), (700, 200)])
@pytest.mark.parametrize("conditions", [("",), ("human", "machine")])
def test_the_picture_shows_every_view(height: int, width: int, conditions: tuple[str, ...]) -> None:
    pixels = picture(height, width)
    views = {condition: pixels for condition in conditions}
    result = Result(2, 1234, views, JpegMatch(5, 1200, pixels, 30.0, None), {}, {})
    sheet = np.asarray(comparison(pixels, result))
    panels = 2 + len(conditions)
    assert sheet.shape[1] == panels * 492 + 12 and sheet.shape[2] == 3
    # The same pixels in every panel: the details are the same too.
    details = [sheet[-492:-12, 12 + i * 492 :][:, :480] for i in range(panels)]
    for detail in details:
        np.testing.assert_array_equal(detail, details[0])
