"""The command lines, with the shipped bundle: what they write, and what they say when something is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.commands.cli import VERBS, main, printable
from ugicm.runtime.encoder import container
from ugicm.runtime.files.images import read_image, write_image

ROOT = Path(__file__).parents[3]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    rows, columns = np.mgrid[:70, :90]
    waves = [128 + 100 * np.sin(rows / (7 + c) + columns / 11) for c in range(3)]
    path = tmp_path / "photo.png"
    write_image(path, np.stack(waves, axis=2).astype(np.uint8))
    return path


@pytest.fixture
def encoded(image: Path, codec: Codec) -> Path:
    path = image.with_suffix(".ugic")
    path.write_bytes(codec.encode(read_image(image), 2))
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one error line of a command that fails."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    output, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and output == ""
    return error


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_help_names_every_verb_and_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, line in VERBS.items():
        assert f"{verb} " in text and line in text
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: ugicm {verb}")
    assert main([]) == 2
    assert capsys.readouterr().out == text


def test_entropy_workers_change_no_byte_and_are_for_files(
    tmp_path: Path, image: Path, encoded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ugic"
    assert main(["encode", str(image), "-o", str(out), "-q", "2", "--entropy-workers", "1"]) == 0
    assert out.read_bytes() == encoded.read_bytes()
    pixels = tmp_path / "out.png"
    assert main(["decode", str(encoded), "-o", str(pixels), "--entropy-workers", "1"]) == 0
    assert pixels.exists()
    capsys.readouterr()
    assert "give 0 or more" in fails(capsys, "decode", encoded, "-o", tmp_path / "no.png", "--entropy-workers", -1)
    for verb in ("encode", "decode"):
        assert "--jobs" in fails(capsys, verb, tmp_path, "-o", tmp_path / "folder", "--entropy-workers", 1)


def test_a_near_miss_of_a_verb_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean encode?" in fails(capsys, "encod")
    assert "did you mean verify?" in fails(capsys, "Verify")
    assert "use one of encode, " in fails(capsys, "zzz")


def test_encode_and_decode_write_what_the_codec_gives(
    tmp_path: Path, image: Path, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.ugic"
    assert main(["encode", str(image), "-o", str(out), "--quality", "2"]) == 0
    data = codec.encode(read_image(image), 2)
    assert out.read_bytes() == data
    line = capsys.readouterr().out
    assert line.startswith(f"{image} -> {out}  {len(data):,} bytes  {8 * len(data) / 6300:.3f} bpp  ")
    for arguments, condition in ([], None), (["-c", "machine"], "machine"), (["--condition", "0.25"], 0.25):
        view = tmp_path / "view.png"
        assert main(["decode", str(out), "-o", str(view), *arguments]) == 0
        np.testing.assert_array_equal(read_image(view), codec.decode(data, condition))
    assert main(["decode", str(out), "-o", str(tmp_path / "view.bmp"), "--condition", "both"]) == 0
    for condition in ("human", "machine"):
        view = tmp_path / f"view.{condition}.bmp"
        np.testing.assert_array_equal(read_image(view), codec.decode(data, condition))
    assert names(tmp_path) == {
        "photo.png", "out.ugic", "view.png", "view.human.bmp", "view.machine.bmp"
    }  # fmt: skip


def test_quality_is_4_unless_said_otherwise(tmp_path: Path, image: Path, codec: Codec) -> None:
    assert main(["encode", str(image), "-o", str(tmp_path / "x")]) == 0
    assert bitstream.parse((tmp_path / "x").read_bytes()).quality == 4


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, second = tmp_path / "words.png", tmp_path / "second.png"
    words.write_text("not a picture")
    second.write_bytes(image.read_bytes())
    out = tmp_path / "out"
    assert main(["encode", *map(str, (words, image, tmp_path / "no.png", second)), "-o", str(out)]) == 2
    output, error = capsys.readouterr()
    assert names(out) == {"photo.ugic", "second.ugic"}
    assert output.count("\n") == 2 and error.count("error: ") == error.count("\n") == 2
    assert str(words) in error and "no.png" in error
    (out / "a.ugic").write_bytes((out / "photo.ugic").read_bytes()[:-3])
    views = tmp_path / "views"
    files = ["a", "photo", "second"]
    assert main(["decode", *[f"{out}/{name}.ugic" for name in files], "-o", f"{views}/", "-c", "both"]) == 2
    assert names(views) == {f"{name}.{c}.png" for name in files[1:] for c in ("human", "machine")}
    assert "a.ugic" in capsys.readouterr().err


def test_no_folder_is_left_where_nothing_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in fails(capsys, "encode", tmp_path / "no.png", "-o", f"{tmp_path}/out/")
    assert "no such file" in fails(capsys, "decode", tmp_path / "no.ugic", "-o", f"{tmp_path}/out/")
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encode", "IMAGE"], "-o"),
        (["encode", "IMAGE", "-o", "DIR/x", "--quality", "0"], "quality '0' is not"),
        (["encode", "IMAGE", "-o", "DIR/x", "--quality", "256"], "a number from 1 to "),
        (["encode", "IMAGE", "-o", "DIR/x", "--quality", "x"], "quality 'x' is not"),
        (["encode", "IMAGE", "-o", "DIR/x", "--quality", "-1"], "quality '-1'"),
        (["encode", "IMAGE", "-o", "DIR/x", "--quality", "8.5"], "quality '8.5'"),
        (["encode", "IMAGE", "-o", "DIR/missing/x"], "does not exist"),
        (["encode", "IMAGE", "-o", "IMAGE"], "replace an input"),
        (["encode", "IMAGE", "IMAGE", "-o", "DIR"], "both be written"),
        (["encode", "FILE", "-o", "DIR/x"], "decode it instead"),
        (["encode", "DIR", "-o", "DIR/x.ugic"], "needs a folder of outputs"),
        (["encode", "IMAGE", "-o", "DIR/x", "--bundle", "DIR/nowhere"], "nowhere"),
        (["encode", "IMAGE", "-o", "DIR/x", "--nonsense"], "--nonsense"),
        (["decode", "FILE", "-o", "DIR/x.png", "--condition", "robot"], "human, machine"),
        (["decode", "FILE", "-o", "DIR/x.png", "--condition", "1.5"], "'1.5'"),
        (["decode", "FILE", "-o", "DIR/x.png", "--condition", "nan"], "from 0 to 1"),
        (["decode", "FILE", "-o", "DIR/x.png", "--condition=-0.1"], "from 0 to 1"),
        (["decode", "FILE", "-o", "DIR/x.png", "--bundle", "DIR/nowhere"], "nowhere"),
        (["decode", "FILE", "-o", "DIR/x.xyz"], ".png"),
        (["decode", "FILE", "-o", "DIR/x"], "no suffix"),
        (["decode", "FILE", "-o", ""], "empty"),
        (["decode", "IMAGE", "-o", "DIR/x.png"], "UGIC"),
        (["decode", "DIR", "-o", "DIR/x.png"], "needs a folder of outputs"),
        (["info", "IMAGE"], "UGIC"),
        (["info", "DIR/nothing"], "no such file"),
        (["info", "DIR"], "not a bundle"),
        (["demo", "DIR/nothing.png", "-o", "DIR/x"], "no such file"),
    ],
)
def test_every_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    image: Path,
    encoded: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"IMAGE": image, "FILE": encoded, "DIR": tmp_path}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for word, path in places.items():
        arguments = [argument.replace(word, str(path)) for argument in arguments]
    assert words in fails(capsys, *arguments)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_and_foreign_files_are_named(tmp_path: Path, encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = encoded.read_bytes()
    bad = tmp_path / "bad.ugic"
    view = tmp_path / "view.png"
    for data in (b"", whole[:20], whole[:-1], whole + b"x", whole[:-5] + b"\0" + whole[-4:], b"x" * 40):
        bad.write_bytes(data)
        assert str(bad) in fails(capsys, "decode", bad, "-o", view)
    stream = bitstream.parse(whole)
    bad.write_bytes(container.pack(dataclasses.replace(stream, codec_id=b"\0" * 8)))
    assert f"{bad}: no bundle with codec id {'00' * 8}" in fails(capsys, "decode", bad, "-o", view)
    bad.write_bytes(container.pack(dataclasses.replace(stream, symbol_checksum=stream.symbol_checksum ^ 1)))
    assert "symbols" in fails(capsys, "decode", bad, "-o", view)
    assert not view.exists()


def test_info_tells_what_a_file_holds(
    tmp_path: Path, encoded: Path, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(encoded), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    stream = bitstream.parse(encoded.read_bytes())
    assert (facts["width"], facts["height"], facts["quality"]) == (90, 70, 2)
    assert facts["codec_id"] == codec.codec_id.hex()
    assert facts["bits"]["z"] == 8 * len(stream.z)
    total = facts["bits"]["header"] + facts["bits"]["z"] + sum(facts["bits"]["y"])
    assert total == 8 * facts["bytes"] == 8 * encoded.stat().st_size
    assert facts["bpp"] == pytest.approx(total / 6300)
    assert Path(facts["bundle"]).is_dir()
    assert main(["info", str(encoded)]) == 0
    text = capsys.readouterr().out
    assert "90x70 pixels" in text and codec.codec_id.hex() in text and facts["bundle"] in text


def test_info_tells_what_a_bundle_holds(tmp_path: Path, codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    shipped = json.loads(capsys.readouterr().out)
    assert shipped["codec_id"] == codec.codec_id.hex() and shipped["conditions"] == {"human": 0.0, "machine": 1.0}
    folder = ROOT / "tests" / "golden" / "v1" / "bundle"
    assert main(["info", str(folder / "manifest.json"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["files"]["h_s.onnx"] == (folder / "h_s.onnx").stat().st_size
    assert facts["bytes"] == sum(facts["files"].values())
    assert len(facts["proof"]) == 3 and all(0 < p["largest"] < p["of"] == 2**24 for p in facts["proof"])
    assert main(["info", str(folder)]) == 0
    text = capsys.readouterr().out
    for words in ("ugicm-fast", facts["codec_id"], "human (0), machine (1)", f"{facts['bytes']:,} bytes", "h_s/conv2"):
        assert words in text
    broken = tmp_path / "bundle"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "g_s.onnx").write_bytes((broken / "g_s.onnx").read_bytes()[:-1] + b"x")
    assert "changed since export" in fails(capsys, "info", broken)


def test_info_needs_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "foreign.ugic"
    path.write_bytes(container.pack(bitstream.Bitstream(b"elsewher", 3, 5, 7, b"z", (b"yy", b"yyy"), 1)))
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bundle"] is None and facts["bits"]["y"] == [16, 24]
    assert main(["info", str(path)]) == 0
    assert "decoding needs one" in capsys.readouterr().out


def test_a_warning_is_one_line_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "glass.webp"
    from PIL import Image

    Image.new("RGBA", (40, 30), (255, 0, 0, 99)).save(path)
    assert main(["encode", str(path), "-o", str(tmp_path / "x"), "--opaque"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and error.count("\n") == 1 and "white" in error


@pytest.mark.parametrize("stem", [b"caf\xe9", b"two\nlines", "žlutý 漢字".encode()])
def test_any_file_name_can_be_printed(tmp_path: Path, image: Path, stem: bytes) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + stem + b".png"))
    try:
        source.write_bytes(image.read_bytes())
    except OSError:
        pytest.skip("this file system does not take the name")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "ugicm", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)

    done = run("encode", source, tmp_path / "no.png", "-o", f"{tmp_path}/out/")
    assert done.returncode == 2
    assert done.stdout.count(b"\n") == done.stderr.count(b"\n") == 1, done.stderr
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out/" + stem + b".ugic"))
    assert file.is_file()
    assert run("info", file).returncode == 0
    wrong = run("decode", file, "-o", file)
    assert wrong.returncode == 2 and wrong.stderr.count(b"\n") == 1 and b"error" in wrong.stderr


def test_control_characters_are_escaped() -> None:
    assert printable("a\nb\x1b[31m\udce9 é") == r"a\nb\x1b[31m\udce9 é"


def test_bundles_are_found_where_the_user_says(
    tmp_path: Path, encoded: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ugicm.runtime.bundle import Bundle

    folder = tmp_path / "bundles" / "copy"
    folder.mkdir(parents=True)
    for file in Path(codec.bundle.path).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    opened: list[Path] = []
    open_bundle = Bundle.open

    def noting_open(path: Path) -> Bundle:
        opened.append(Path(path))
        return open_bundle(path)

    monkeypatch.setattr(Bundle, "open", noting_open)
    again = encoded.with_name("again.ugic")
    again.write_bytes(encoded.read_bytes())
    arguments = ["decode", str(encoded), str(again), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--bundle", str(folder)]) == 0
    monkeypatch.setenv("UGICM_BUNDLES", str(folder.parent))
    assert main(arguments) == 0
    assert opened == [folder, folder]  # once for both files of a command


def test_an_interrupted_command_leaves_nothing(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    assert main(["encode", str(image), "-o", str(tmp_path / "x")]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert names(tmp_path) == {"photo.png"}
