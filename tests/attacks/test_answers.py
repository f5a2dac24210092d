"""Graphs of a bundle that answer with something else, at decoding, encoding and verification: one error, by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.attacks import graphs
from tests.attacks.commands import FILES
from tests.attacks.target import opened, prepare
from ugicm import Codec
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.commands.verify import verify
from ugicm.runtime.errors import AnswerError, BackendError, BundleError, UgicError

IMAGE = np.random.default_rng(3).integers(0, 256, (50, 70, 3), np.uint8)
READ = {
    "g_a": "encode",
    "h_a": "encode",
    "context": "both",
    "condition": "decode",
    "g_s_trunk": "decode",
    "g_s": "decode",
}

KINDS = ("type DOUBLE", "type INT64", "of rank 2", "of rank 5", "a row less", "twice the files")


def codec_with(graph: str, output: int, what: str) -> Codec:
    _, contents, _ = prepare()
    file = f"{graph}.onnx"
    return Codec(opened({**contents, file: graphs.rewritten(contents[file], output, what)}), prepare()[0].backend)


def used(codec: Codec, how: str) -> None:
    if how in ("encode", "both"):
        codec.encode(IMAGE, 2)
    if how in ("decode", "both"):
        codec.decode(FILES[2].read_bytes(), 0.5)


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("graph", READ)
def test_an_answer_of_another_type_or_size_is_one_error(graph: str, what: str) -> None:
    if graph == "condition" and not what.startswith("type"):
        what = "one channel"  # it is of rank 2
    with pytest.raises(BackendError) as caught:
        used(codec_with(graph, 0, what), READ[graph])
    assert "\n" not in str(caught.value) and graph in str(caught.value)
    # Of the wrong rank for the operator itself, ONNX Runtime says so first.
    assert isinstance(caught.value, AnswerError) or "ONNX Runtime failed" in str(caught.value)


def test_an_answer_is_a_fault_of_the_bundle_and_of_the_backend() -> None:
    assert issubclass(AnswerError, BundleError) and issubclass(AnswerError, BackendError)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("what", ["type INT64", "type DOUBLE", "a row less", "all 255", "noise", "an output more"])
def test_an_exact_path_of_another_kind_is_not_admitted_and_the_reference_decodes(output: int, what: str) -> None:
    codec = codec_with("h_s", output, what)
    verdicts = verify(codec.bundle, "onnxruntime")
    assert not any(v.admitted for v in verdicts) and all(v.reason and "\n" not in v.reason for v in verdicts)
    expected = prepare()[0].decode(FILES[2].read_bytes())
    np.testing.assert_array_equal(codec.decode(FILES[2].read_bytes()), expected)


def test_rows_that_no_table_has_are_an_error_after_admission_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is right on golden vectors and answers with row 255 on anything else."""
    codec = prepare()[0]
    plain = codec.backend.load

    def load(model: bytes, name: str, *more: object) -> object:
        run = plain(model, name, *more)

        def other(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            rows, *rest = run(inputs)
            known = any(np.array_equal(inputs["z"], codec.bundle.golden[f"z{i}"]) for i in range(5))
            return [rows if known else np.full_like(rows, 255), *rest]

        return other if name == "h_s" else run

    class Sly:
        name = "sly"

    sly = Sly()
    sly.load = load  # type: ignore[attr-defined]
    with pytest.raises(AnswerError, match="row 255"):
        Codec(codec.bundle, sly).decode(FILES[2].read_bytes())  # type: ignore[arg-type]


def test_numbers_that_are_none_are_an_error_when_encoding() -> None:
    for graph in ("g_a", "h_a", "context"):
        for what in ("all no numbers", "all infinity"):
            with pytest.raises(UgicError) as caught:
                codec_with(graph, 0, what).encode(IMAGE, 1)
            assert "\n" not in str(caught.value)


def test_an_error_whose_words_are_no_text_prints_nothing_beside_it(capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime quotes the name of a tensor; Python cannot read that, and the library would print and try again."""
    _, contents, _ = prepare()
    model = onnx.load_model_from_string(contents["condition.onnx"])
    model.graph.node[0].input[0] = "an input of no name"
    with pytest.raises(BackendError, match="cannot load graph condition"):
        OnnxRuntime(threads=1).load(
            model.SerializeToString().replace(b"an input of", b"an \xff\xfe\xfd\xfc\xfb of"), "condition"
        )
    assert capfd.readouterr() == ("", "")


def test_the_bundle_is_whole() -> None:
    assert set(READ) | {"h_s"} == set(prepare()[0].bundle.manifest.graphs)
    assert Path(FILES[2]).is_file()
