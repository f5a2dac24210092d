"""The files of a model repository: two models, each with its bundle, a client, and how to start a server with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ugicm import __version__
from ugicm.adapters.triton.model import BUNDLE
from ugicm.runtime.backends.gpu.engines import FOLDER, DeviceGraphs
from ugicm.runtime.backends.gpu.tensorrt_api import MODULES
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import UsageError
from ugicm.runtime.files.output import make_folder, write_atomically
from ugicm.runtime.manifest import MANIFEST

MARK = "ugicm.json"
BATCH = 16
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
        batch: requests that Triton hands over together at most; those of one size go through the networks together,
            which only a GPU gains by.
        pixels: of the largest picture that is taken.
    """

    instances: int
    backend: str = "onnxruntime"
    precision: str | None = None
    threads: int = 1
    batch: int = 1
    pixels: int = 1 << 26


def repository_files(bundle: Bundle, serving: Serving) -> dict[str, bytes]:
    """The files of a repository by name, with the engines of backends that run such.

    Raises:
        BackendError: there are no device graphs of that precision.
        UsageError: their engines take smaller batches.
        PartError: through `Bundle.file` only where a bundle changed.
    """
    manifest = (bundle.path / MANIFEST).read_bytes()
    contents = {name: bundle.file(name) for name in bundle.manifest.files} | {MANIFEST: manifest}
    contents |= _engines(bundle, serving)
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


def default_batch(bundle: Bundle, backend: str, precision: str | None) -> int:
    """1 on a CPU, BATCH on a GPU, or as many as its engines take. Raises BackendError: there are no graphs for them."""
    if backend == "onnxruntime":
        return 1
    graphs = _device_graphs(bundle, backend, precision)
    return min(BATCH, graphs.index.batch) if graphs and backend in MODULES else BATCH


def _device_graphs(bundle: Bundle, backend: str, precision: str | None) -> DeviceGraphs | None:
    """Those that a backend runs; None where it runs the bundle's own."""
    chosen = precision or ("fp16" if backend in MODULES else None)
    return None if chosen is None else DeviceGraphs.open(bundle, chosen)


def _engines(bundle: Bundle, serving: Serving) -> dict[str, bytes]:
    """Device graphs, and the engines built of them, by name below the bundle's folder."""
    graphs = _device_graphs(bundle, serving.backend, serving.precision)
    if graphs is None:
        return {}
    precision = graphs.index.precision
    if serving.backend in MODULES and serving.batch > graphs.index.batch:
        raise UsageError(
            f"--batch {serving.batch}: engines of {graphs.folder} take {graphs.index.batch} images; build them again: "
            f"python -m ugicm.export.to_tensorrt {bundle.path} --precision {precision} --batch {serving.batch}"
        )
    files = (path for path in sorted(graphs.folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {f"{FOLDER}/{precision}/{path.relative_to(graphs.folder).as_posix()}": path.read_bytes() for path in files}


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
        "batch": serving.batch,
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
