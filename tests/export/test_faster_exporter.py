"""The exporter in a hurry makes the same bytes, reads its translations once, and leaves torch as it was."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ugicm.export import faster_exporter, graphs
from ugicm.export.faster_exporter import hurried
from ugicm.export.source import GraphSource

REGISTRY = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry


def exported() -> bytes:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU())
    source = GraphSource(
        module, ("x",), ("y",), lambda h, w, n: (torch.zeros(n, 3, h, w),), ({0: "n", 2: "h", 3: "w"},), 1e-5
    )
    return graphs.export_graph("g", source).SerializeToString()


def test_the_bytes_are_the_exporters_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the collector and translations as they are given, and in a hurry, twice."""
    found = [exported(), exported()]
    monkeypatch.setattr(graphs, "hurried", contextlib.nullcontext)
    assert found == [exported()] * 2


def test_translations_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own: Callable[..., object] = REGISTRY.from_torchlib.__func__
    reads: list[object] = []
    counted = classmethod(lambda cls, **options: (reads.append(options), own(cls, **options))[1])
    monkeypatch.setattr(REGISTRY, "from_torchlib", counted)
    monkeypatch.setattr(faster_exporter, "_KEPT", {})
    assert exported() == exported() and len(reads) == 1
    with hurried():
        one, other = REGISTRY().from_torchlib(opset_version=20), REGISTRY().from_torchlib(opset_version=18)
        assert one is not other and one is REGISTRY().from_torchlib(opset_version=20)
    assert vars(REGISTRY)["from_torchlib"] is counted


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_as_it_was_even_after_an_error(collecting: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), hurried():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_a_torch_without_that_registry_exports_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster_exporter, "importlib", None)
    with hurried():
        assert isinstance(vars(REGISTRY)["from_torchlib"], classmethod)
