"""An INT8 bundle beside its float one: graphs replaced or added, the entropy path untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ugicm.export.forms.views import constant, inlined, view_graph
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import OutputError
from ugicm.runtime.files.whole_folder import check_replaceable, replace_folder
from ugicm.runtime.manifest import MANIFEST, FileEntry, GraphEntry, Manifest

VIEW = ".view"


def check_free(folder: Path) -> None:
    """Raises OutputError where no bundle may be written: see `check_replaceable`; or there is no parent folder."""
    check_replaceable(folder)
    if not folder.absolute().parent.is_dir():
        raise OutputError(f"{folder}: its folder does not exist; create it first")


def int8_bundle(bundle: Bundle, models: Mapping[str, bytes], note: Mapping[str, Any], precision: str) -> Bundle:
    """The bundle in memory with graphs replaced or added, its codec id the same.

    Args:
        bundle: the float bundle.
        models: graph → ONNX bytes.
        note: for people; stands in the manifest under `model`.
        precision: "int8" or "fp8".
    """
    contents = {name: bundle.file(name) for name in bundle.manifest.files}
    graphs, views = dict(bundle.manifest.graphs), bundle.manifest.views
    if "g_s" in models:  # the view graph is one of another `g_s`
        stale = graphs.pop(f"g_s{VIEW}", None)
        if stale is not None:
            del contents[stale.file]
        found = view_graph(onnx.load_from_string(models["g_s"]))
        views = () if found is None else found[1]
        models = models if found is None else {**models, f"g_s{VIEW}": found[0].SerializeToString()}
    for name, model in models.items():
        graph = onnx.load_from_string(model).graph
        graphs[name] = GraphEntry(
            f"{name}.onnx", tuple(i.name for i in graph.input), tuple(o.name for o in graph.output)
        )
        contents[graphs[name].file] = model
    files = {n: FileEntry(hashlib.sha256(d).hexdigest(), len(d)) for n, d in sorted(contents.items())}
    manifest: Manifest = replace(
        bundle.manifest,
        precision=precision,
        graphs=graphs,
        files=files,
        views=views,
        model={**bundle.manifest.model, precision: dict(note)},
    )
    return Bundle(bundle.path, manifest, contents)


def view_model(bundle: Bundle, condition: np.ndarray) -> bytes:
    """The ONNX file of `g_s` under a condition, (1, D) float32, its weights in it."""
    if not bundle.folds:
        return constant(onnx.load_from_string(bundle.graph("g_s")[1]), "condition", condition).SerializeToString()
    model, weights = bundle.view(condition)
    return inlined(onnx.load_from_string(model), weights).SerializeToString() if weights else model


def write(bundle: Bundle, folder: Path) -> int:
    """Writes a bundle whole or not at all, replacing one that is there; the bytes written.

    Raises:
        OutputError: see `replace_folder`.
    """
    contents = {name: bundle.file(name) for name in bundle.manifest.files}
    contents[MANIFEST] = bundle.manifest.to_json().encode()
    replace_folder(folder, contents)
    return sum(map(len, contents.values()))
