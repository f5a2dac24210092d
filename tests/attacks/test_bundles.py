"""Bundles by somebody who knows how to compute every hash in them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.attacks.commands import BUNDLE, FILES, refusals, tree, ugicm
from ugicm import Codec
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import LARGEST_BUNDLE, Bundle, read_arrays
from ugicm.runtime.errors import BackendError, BundleError, UgicError
from ugicm.runtime.manifest import MANIFEST
from ugicm.runtime.onnx_bytes.check import check_graph
from ugicm.runtime.onnx_bytes.wire import GRAPH_NODE, MODEL_GRAPH, fields
from ugicm.runtime.onnx_bytes.write import field

FILE = FILES[2].read_bytes()


class Evil:
    """What unpickles by running a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in BUNDLE.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return values


def put(folder: Path, name: str, data: bytes) -> None:
    """Replaces a file; the manifest says that it must be so."""
    (folder / name).write_bytes(data)
    values = manifest_of(folder)
    values["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / MANIFEST).write_text(json.dumps(values))


def refuse(folder: Path, words: str = ".") -> None:
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


# ---- the manifest


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "\0", "a\0b", "\ud800", "x" * 300, "a\nb", "\x1b[2J"],
    ids=repr,
)
def test_names_that_leave_the_bundle_are_refused(copy: Path, name: str) -> None:
    (copy.parent / "secret").write_bytes(b"secret")
    values = manifest_of(copy)
    for change in ("files", "graphs"):
        changed = json.loads(json.dumps(values))
        if change == "files":
            changed["files"][name] = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
        else:
            changed["graphs"]["g_s"]["file"] = name
        (copy / MANIFEST).write_text(json.dumps(changed))
        refuse(copy, "malformed manifest")


@pytest.mark.parametrize("size", [-1, 2**30 + 1, 2**62, 10**400, 1e999, "9" * 5000, None, [], True], ids=repr)
def test_sizes_that_cannot_be_are_refused(copy: Path, size: object) -> None:
    values = manifest_of(copy)
    values["files"]["g_s.onnx"]["bytes"] = size
    (copy / MANIFEST).write_text(json.dumps(values))
    refuse(copy)


def test_sparse_files_do_not_fill_the_memory(copy: Path) -> None:
    values = manifest_of(copy)
    for i in range(64):
        with (copy / f"{i}").open("wb") as handle:
            handle.truncate(LARGEST_BUNDLE // 2)
        values["files"][f"{i}"] = {"sha256": "0" * 64, "bytes": LARGEST_BUNDLE // 2}
    (copy / MANIFEST).write_text(json.dumps(values))
    refuse(copy, "larger than")


@pytest.mark.parametrize("name", ["g_s.onnx", MANIFEST])
def test_links_pipes_devices_and_folders_are_no_files_of_a_bundle(copy: Path, name: str) -> None:
    (copy / name).rename(copy.parent / "outside")
    for make in (
        lambda at: at.symlink_to(copy.parent / "outside"),
        lambda at: at.symlink_to("/dev/zero"),
        lambda at: os.mkfifo(at),
    ):
        make(copy / name)
        refuse(copy, "symbolic link or no regular file")
        (copy / name).unlink()
    (copy / name).mkdir()
    refuse(copy)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"format": 1}', "[" * 100_000, '{"format": 1e999}', "\ufeff{}"]
)
def test_what_is_no_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / MANIFEST).write_text(text)
    with pytest.raises(UgicError):
        Bundle.open(copy)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_anywhere_in_a_manifest(copy: Path, data: st.DataObject) -> None:
    whole = json.loads((BUNDLE / MANIFEST).read_text())
    at = whole
    while True:
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(anything | st.integers(-(2**33), 2**33))
    (copy / MANIFEST).write_text(json.dumps(whole))
    try:
        codec = Codec.from_bundle(copy, threads=1)
        codec.decode(FILE)
    except UgicError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("gate", [None, [], [0], [3, 1], "ab"], ids=repr)
def test_a_view_without_a_gate_is_refused(copy: Path, gate: object) -> None:
    values = manifest_of(copy)
    names = {name: name for name in ("weight", "bias", "down", "up")}
    values["views"] = [{**names, "gate": gate, "shift": None, "order": None, "units": None}]
    (copy / MANIFEST).write_text(json.dumps(values))
    refuse(copy, "malformed manifest")


# ---- arrays


def archive(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries.items():
            target.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(shape: str, descr: str = "<i4", data: bytes = b"") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


@pytest.mark.parametrize(
    "data",
    [
        archive(a=bytes(300 << 20)),
        archive(a=npy("(99999999999, 999)")),
        archive(a=npy("(-1,)")),
        archive(a=npy("(2**40,)")),
        archive(a=npy("(" * 5000)),
        archive(a=npy("(1,)", "|O", pickle.dumps([1]))),
        archive(a=npy("(1,)", "<q16")),
        archive(a=b"\x93NUMPY\x09\x00"),
        archive(a=b""),
        b"PK\x05\x06" + bytes(18),
        b"",
        pickle.dumps([1]),
        zipfile.__doc__.encode(),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_arrays_that_are_bombs_or_none_are_refused(copy: Path, data: bytes) -> None:
    put(copy, "tables.npz", data)
    refuse(copy)


def test_nothing_in_an_array_file_is_executed(copy: Path) -> None:
    canary = copy.parent / "canary"
    evil = pickle.dumps(Evil(f"touch '{canary}'"))
    for data in (evil, archive(y_lengths=npy("()", "|O", evil)), archive(y_lengths=npy("(1,)", "|O", evil))):
        put(copy, "tables.npz", data)
        refuse(copy)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["gain", "inverse_gain", "condition_human", "condition_machine"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tables_hold_finite_numbers(copy: Path, name: str, value: float) -> None:
    arrays = read_arrays((copy / "tables.npz").read_bytes(), copy)
    arrays[name].reshape(-1)[-1] = value
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    put(copy, "tables.npz", buffer.getvalue())
    refuse(copy, name)


# ---- graphs


def graph(nodes: list[Any], *initializers: Any, **more: Any) -> bytes:
    """An ONNX file from y_hat to image, as `g_s_trunk` has it."""
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("y_hat", TensorProto.FLOAT, None), value("inverse_gain", TensorProto.FLOAT, None)],
        [value("features", TensorProto.FLOAT, None)],
        list(initializers),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20), *more.get("opsets", [])], ir_version=9)
    model.functions.extend(more.get("functions", []))
    return bytes(model.SerializeToString())


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def add() -> Any:
    return helper.make_node("Add", ["y_hat", "w"], ["features"])


def loop() -> bytes:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Identity", ["x"], ["xx"])],
        "body",
        [value("i", TensorProto.INT64, []), value("going", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("xx", TensorProto.FLOAT, None)],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    return graph([helper.make_node("Loop", ["", "true", "y_hat"], ["features"], body=body)], true)


def add_graph() -> bytes:
    return graph([helper.make_node("Add", ["y_hat", "inverse_gain"], ["features"])])


def wide_key(model: bytes) -> bytes:
    """The model with the nodes of its graph under a key of more than 32 bits, which libraries cut to that of nodes."""
    content = next(bytes(value) for number, value in fields(memoryview(model)) if number == MODEL_GRAPH)
    parts = [(n, v if isinstance(v, int) else bytes(v)) for n, v in fields(memoryview(content))]
    hidden = b"".join(field(number + 2**29 * (number == GRAPH_NODE), value) for number, value in parts)
    rest = [(n, v if isinstance(v, int) else bytes(v)) for n, v in fields(memoryview(model)) if n != MODEL_GRAPH]
    return b"".join(field(n, v) for n, v in rest) + field(MODEL_GRAPH, hidden)


GRAPHS: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: graph([add()], outside("/etc/passwd")), "outside of the file"),
    "parent": (lambda: graph([add()], outside("../secret")), "outside of the file"),
    "beside": (lambda: graph([add()], outside("tables.npz")), "outside of the file"),
    "attribute": (
        lambda: graph([helper.make_node("Constant", [], ["w"], value=outside("secret")), add()]),
        "outside of the file",
    ),
    "loop": (loop, "Loop has a graph of its own"),
    "foreign": (
        lambda: graph([helper.make_node("Add", ["y_hat", "w"], ["features"], domain="evil")]),
        "unknown domain",
    ),
    "function": (
        lambda: graph([], functions=[helper.make_function("", "f", [], [], [], [helper.make_opsetid("", 20)])]),
        "functions",
    ),
    "another format": (lambda: field(2, b"..ORTM") + (BUNDLE / "g_s.onnx").read_bytes(), "own format"),
    "field 0": (lambda: (BUNDLE / "g_s.onnx").read_bytes() + b"\0\0", "field number 0"),
    "key of 33 bits": (lambda: wide_key(loop()), "field number"),
    "input that is no text": (lambda: add_graph().replace(b"y_hat", b"\xff_hat"), "not an ONNX file"),
    "output that is no text": (lambda: add_graph().replace(b"features", b"\xffeatures"), "not an ONNX file"),
    "nothing": (lambda: b"", "0 graphs"),
    "random": (lambda: np.random.default_rng(0).bytes(5000), "not an ONNX file"),
    "cut": (lambda: (BUNDLE / "g_s.onnx").read_bytes()[:-9], "not an ONNX file"),
    "twice": (lambda: (BUNDLE / "g_s.onnx").read_bytes() * 2, "2 graphs"),
    "pickle": (lambda: pickle.dumps(Evil("true")), "not an ONNX file"),
}


@pytest.mark.parametrize("what", GRAPHS)
def test_graphs_hold_networks_and_their_weights_only(copy: Path, what: str) -> None:
    (copy.parent / "secret").write_bytes(bytes(16))
    make, words = GRAPHS[what]
    put(copy, "g_s_trunk.onnx", make())
    refuse(copy, words)


def test_the_library_would_run_what_these_hide(tmp_path: Path) -> None:
    """Why the checks of the two are needed: without them ONNX Runtime loads a loop that never ends."""
    session = onnxruntime.InferenceSession(wide_key(loop()), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["features"]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(tmp_path / "loop.ort")
    onnxruntime.InferenceSession(loop(), options, providers=["CPUExecutionProvider"])
    other = (tmp_path / "loop.ort").read_bytes()
    assert other[4:8] == b"ORTM"
    onnxruntime.InferenceSession(other, providers=["CPUExecutionProvider"])
    with pytest.raises(BackendError, match="cannot load graph g_s"):
        OnnxRuntime(threads=1).load(other, "g_s")


def constant_of_shape(*shape: int) -> bytes:
    return graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["large"]),
            helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
            helper.make_node("Add", ["y_hat", "sum"], ["features"]),
        ],
        helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape),
    )


def test_huge_constants_meet_a_limit_of_memory_with_one_line(copy: Path) -> None:
    """Nothing but running a graph tells what it asks for: the system's limit is what bounds it."""
    (copy.parent / "x.ugic").write_bytes(FILE)
    for shape in ((2**40,), (2**62, 2**62), (-1,), (2**31, 2)):
        put(copy, "g_s_trunk.onnx", constant_of_shape(*shape))
        if shape == (2**31, 2):
            before = tree(copy.parent)
            done = ugicm(copy.parent, "decode", "x.ugic", "-o", "x.png", "--bundle", copy, memory_mb=2000)
            assert len(refusals(done)) == 1 and "memory" in done.stderr and tree(copy.parent) == before
        else:
            with pytest.raises(BackendError):
                Codec.from_bundle(copy, threads=1).decode(FILE)


def test_graphs_that_compute_something_else_are_errors_with_a_name(copy: Path) -> None:
    put(copy, "g_s_trunk.onnx", graph([helper.make_node("Shape", ["y_hat"], ["features"])]))
    with pytest.raises(BackendError):
        Codec.from_bundle(copy, threads=1).decode(FILE)
    put(copy, "g_s_trunk.onnx", (BUNDLE / "g_s_trunk.onnx").read_bytes())
    smaller = onnx.load(BUNDLE / "g_s.onnx")
    (last,) = (node for node in smaller.graph.node if "image" in node.output)
    last.output[0] = "whole"
    for name, axis in (("zero", 0), ("one", 1)):
        smaller.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [axis]))
    smaller.graph.node.append(helper.make_node("Slice", ["whole", "zero", "one", "one"], ["image"]))
    put(copy, "g_s.onnx", smaller.SerializeToString())
    with pytest.raises(BackendError, match="another size"):
        Codec.from_bundle(copy, threads=1).decode(FILE)


def test_another_h_s_changes_nothing(copy: Path) -> None:
    """It does not reproduce the golden vectors, and the exact path runs on the reference."""
    put(copy, "h_s.onnx", (copy / "g_a.onnx").read_bytes())
    expected = Codec.from_bundle(BUNDLE, threads=1).decode(FILE)
    np.testing.assert_array_equal(Codec.from_bundle(copy, threads=1).decode(FILE), expected)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_graphs_are_read_without_surprises(data: st.DataObject) -> None:
    whole = bytearray((BUNDLE / "context.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_graph(bytes(whole), Path("x"))
    except BundleError as error:
        assert "\n" not in str(error)
