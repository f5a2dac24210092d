"""Checkpoints as people keep them: wrapped, prefixed, with other things beside; nothing in them is ever executed."""

from __future__ import annotations

import argparse
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ugicm.export.checkpoint import CheckpointError, load
from ugicm.export.checkpoint_file import read
from ugicm.export.compressai_zoo import architecture_of
from ugicm.export.state import state_of
from ugicm.models.entropy import compressai_module

State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + k: v for k, v in state.items()}


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return compressai_module("models.google").ScaleHyperprior(8, 12).state_dict()


WAYS: dict[str, Callable[[State], Any]] = {
    "train.py": lambda s: {"epoch": 1, "state_dict": s, "loss": torch.tensor(1.0)},
    "a NumPy number": lambda s: {"state_dict": s, "loss": np.float64(1.0), "step": np.int32(7), "ok": np.bool_(True)},
    "a NumPy array": lambda s: {"state_dict": s, "curve": np.arange(6.0).reshape(2, 3)},
    "a Namespace": lambda s: {"state_dict": s, "args": argparse.Namespace(lmbda=0.01, out=Path("a"))},
    "model": lambda s: {"itr": 1, "model": s},
    "net": lambda s: {"net": s},
    "deep": lambda s: {"checkpoint": {"weights": {"generator": s}}},
    "ema": lambda s: {"optimizer": {"state": {0: {"step": torch.zeros(1)}}}, "ema": prefixed(s, "module.")},
    "Lightning": lambda s: {"state_dict": prefixed(s, "model.") | {"lpips.lin.weight": torch.zeros(3)}},
    "prefix net": lambda s: {"state_dict": prefixed(s, "net.")},
    "compiled parallel": lambda s: prefixed(s, "module._orig_mod."),
    "compiled parts": lambda s: {k.replace("g_a.", "g_a._orig_mod."): v for k, v in s.items()},
    "old names": lambda s: {k.replace("matrices.", "_matrix").replace("biases.", "_bias"): v for k, v in s.items()},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_networks_are_found(way: str, state: State, tmp_path: Path) -> None:
    torch.save(WAYS[way](dict(state)), tmp_path / "x.pth")
    found = state_of(read(tmp_path / "x.pth", "these"))
    assert found is not None and architecture_of(found) == "bmshj2018-hyperprior"
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_numpy_numbers_are_read(legacy: bool, tmp_path: Path) -> None:
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int8, np.uint16, np.bool_)
    values = {kind.__name__: kind(1) for kind in kinds} | {"pi": np.float64(np.pi), "text": np.str_("a")}
    torch.save(values, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    found = read(tmp_path / "x.pth", "these")
    assert {k: found[k] for k in values if k != "text"} == {k: v.item() for k, v in values.items() if k != "text"}
    assert found["text"] is None and type(found["pi"]) is float


class Trap:
    """Unpickled by anybody who does not look, this runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Own(nn.Module):
    pass


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_other_types_are_named_and_nothing_runs(legacy: bool, state: State, tmp_path: Path) -> None:
    path, marker = tmp_path / "x.pth", tmp_path / "ran"
    for value, words in (
        (Trap(marker), f"calls {os.system.__module__}.system when it is loaded, "),
        (Own(), "holds a tests.export.test_checkpoints.Own, "),
    ):
        torch.save({"state_dict": state, "more": value}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError) as refused:
            load(path)
        message = str(refused.value)
        assert message.startswith(f"{path}: {words}") and "\n" not in message
        assert ("weights_only=False" in message) == isinstance(value, Own)
    assert not marker.exists()


def test_the_line_that_saves_a_file_anew_does(state: State, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": state, "more": Own()}, path)
    with pytest.raises(CheckpointError) as refused:
        load(path)
    line = str(refused.value).split('python -c "')[1].removesuffix('"')
    exec(line, {})  # what a person who trusts the file would run
    assert load(tmp_path / "x.weights.pth").architecture == "bmshj2018-hyperprior"


def safetensors(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_safetensors_are_read(state: State, tmp_path: Path) -> None:
    names = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for key, tensor in state.items():
        data = tensor.contiguous().numpy().tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[key] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    (tmp_path / "x.safetensors").write_bytes(safetensors(header, body))
    found = read(tmp_path / "x.safetensors", "these")
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)
    assert load(tmp_path / "x.safetensors").architecture == "bmshj2018-hyperprior"


BAD = {
    "empty": b"",
    "no header": struct.pack("<Q", 5) + b"{}",
    "a huge header": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": struct.pack("<Q", 2) + b"{{",
    "a list": safetensors([], b""),  # type: ignore[arg-type]
    "outside": safetensors({"g_a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
    "another size": safetensors({"g_a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, b"\0" * 8),
    "negative": safetensors({"g_a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "a type": safetensors({"g_a": {"dtype": "F3", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_safetensors_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(BAD[name])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(tmp_path / "x.safetensors")


OTHERS = {
    "STF": ("h_a.0.weight", "layers.0.blocks.0.attn.qkv.weight", "syn_layers.0.x", "cc_mean_transforms.0.0.weight"),
    "channel-conditional": ("g_a.0.weight", "cc_mean_transforms.0.0.weight"),
    "ELiC-ReImplemetation": ("g_a.0.weight", "cc_transforms.0.0.weight", "ParamAggregation.0.0.weight"),
    "MLIC": ("g_a.analysis_transform.0.weight", "channel_context.1.x", "local_context.0.x"),
    "ssf2020": ("img_encoder.0.weight", "motion_encoder.0.weight"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_are_not_served_are_called_by_their_names(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {k: torch.zeros(1) for k in OTHERS[name]}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"a {name} model is not served: "):
        load(tmp_path / "x.pth")


@settings(max_examples=30, deadline=None)
@given(st.recursive(st.none() | st.integers(), lambda v: st.dictionaries(st.text(max_size=5), v, max_size=3)))
def test_mappings_without_a_network_are_none(values: Any) -> None:
    assert state_of({"values": values}) is None
