"""The files of a model repository: two models, each with its bundle, a client, and how to start a server with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ugicm import __version__
from ugicm.adapters.triton.model import BUNDLE
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import UsageError
from ugicm.runtime.files.output import make_folder, write_atomically
from ugicm.runtime.manifest import MANIFEST

MARK = "ugicm.json"
_STATIC = Path(__file__).parent / "static"
_INPUTS = {
    "ugicm_decode": (("UGIC", "TYPE_STRING", "[ 1 ]", False), ("CONDITION", "TYPE_STRING", "[ -1 ]", True)),
    "ugicm_encode": (("PICTURE", "TYPE_STRING", "[ 1 ]", False), ("QUALITY", "TYPE_INT32", "[ 1 ]", True)),
}
_OUTPUTS = {
    "ugicm_decode": ("IMAGE", "TYPE_UINT8", "[ -1, -1, -1, 3 ]"),
    "ugicm_encode": ("UGIC", "TYPE_STRING", "[ 1 ]"),
}
_CLASSES = {"ugicm_decode": "Decoder", "ugicm_encode": "Encoder"}
_PARTS = {"ugicm_decode": ("both", "decoder"), "ugicm_encode": ("both", "encoder")}


@dataclass(frozen=True)
class Serving:
    """How models are served.

    Attributes:
        instances: of each model, on a CPU a process each.
        backend, precision, threads: as for `Codec.from_bundle`.
        batch: requests that Triton hands over together at most; more than one only serves a GPU.
        pixels: of the largest picture that is taken.
    """

    instances: int
    backend: str = "onnxruntime"
    precision: str | None = None
    threads: int = 1
    batch: int = 1
    pixels: int = 1 << 26


def repository_files(bundle: Bundle, serving: Serving) -> dict[str, bytes]:
    """The files of a repository by name. Raises PartError through `Bundle.file` only where a bundle changed."""
    manifest = (bundle.path / MANIFEST).read_bytes()
    contents = {name: bundle.file(name) for name in bundle.manifest.files} | {MANIFEST: manifest}
    files = {MARK: json.dumps({"written by": f"ugicm triton {__version__}"}).encode() + b"\n"}
    for name in ("README.md", "client.py"):
        files[name] = (_STATIC / name).read_bytes()
    for model, parts in _PARTS.items():
        if bundle.manifest.part not in parts:
            continue
        files |= {f"{model}/1/{BUNDLE}/{name}": data for name, data in contents.items()}
        line = f"from ugicm.adapters.triton.model import {_CLASSES[model]} as TritonPythonModel  # noqa: F401\n"
        files[f"{model}/1/model.py"] = line.encode()
        files[f"{model}/config.pbtxt"] = config(model, serving).encode()
    return files


def config(model: str, serving: Serving) -> str:
    """The `config.pbtxt` of a model."""
    gpu = serving.backend != "onnxruntime"
    lines = [f'name: "{model}"', 'backend: "python"', f"max_batch_size: {serving.batch}"]
    for name, kind, dims, optional in _INPUTS[model]:
        more = " optional: true" if optional else ""
        lines.append(f'input [ {{ name: "{name}" data_type: {kind} dims: {dims}{more} }} ]')
    name, kind, dims = _OUTPUTS[model]
    lines.append(f'output [ {{ name: "{name}" data_type: {kind} dims: {dims} }} ]')
    place = "KIND_GPU" if gpu else "KIND_CPU"
    lines.append(f"instance_group [ {{ kind: {place} count: {serving.instances} }} ]")
    if serving.batch > 1:
        lines.append("dynamic_batching { max_queue_delay_microseconds: 1000 }")
    said = {
        "backend": serving.backend,
        "precision": serving.precision or "",
        "threads": serving.threads,
        "pixels": serving.pixels,
    }
    lines += [f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in said.items()]
    return "\n".join(lines) + "\n"


def write_repository(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes a repository, over an older one that is there; a model's configuration comes last.

    Raises:
        UsageError: the folder holds something else.
        OutputError: it cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise UsageError(f"{folder}: holds something that ugicm triton did not write; give another name with -o")
    make_folder(folder)
    for name in sorted(files, key=lambda name: (name.endswith(".pbtxt"), name != MARK, name)):
        make_folder((folder / name).parent, parents=True)
        write_atomically(folder / name, files[name])
