"""The folder `engines` of a bundle: device graphs in a precision, and the engines that TensorRT made of them here.

    engines/fp16/graphs.json                       what the graphs are and which sizes they serve
    engines/fp16/g_s.onnx                          a device graph
    engines/fp16/tensorrt-rtx-1.7.1.116-any/g_s.engine, g_s.json, timing.cache

Graphs come from `ugicm.export.to_tensorrt` and go anywhere; an engine is code for one package, version and GPU,
rebuilt where any of it differs. The bundle's manifest names none of it. Load only engines that you built.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ugicm.runtime.backends.gpu.device import LARGEST_BATCH, Shape, Tensor, evaluate, multiple
from ugicm.runtime.backends.gpu.tensorrt_api import FLAGS, Api, Network, Progress
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError
from ugicm.runtime.files.output import write_atomically
from ugicm.runtime.onnx_bytes.check import check_graph

log = logging.getLogger("ugicm")

FOLDER = "engines"
INDEX = "graphs.json"
VARIABLE = "UGICM_ENGINES"
TRANSFORMS = frozenset({"g_a", "h_a", "h_s_mean", "context", "g_s_trunk", "g_s", "condition"})
"""Graphs that no scale comes from."""
LARGEST_FILE = 2**31
PRECISIONS = ("fp32", "fp16", "int8", "fp8")

Size = tuple[int, int]
Profile = dict[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True)
class Sizes:
    """The smallest, the usual and the largest image, (height, width) in pixels, multiples of the bundle's stride."""

    least: Size
    usual: Size
    most: Size


@dataclass(frozen=True)
class Index:
    """`graphs.json`.

    Attributes:
        codec_id: of the bundle they were made from.
        precision: of the transforms.
        stride: of the bundle.
        sizes: what engines are to serve.
        workspace: bytes of scratch memory for the builder, or None.
        graphs: name → {"sha256": of the device graph, "source": SHA-256 of the bundle's file it was made from}.
        golden: (height, width) of `z` that the golden vectors reach: engines of what scales come from serve them too.
        batch: images that engines take together at most.
    """

    codec_id: str
    precision: str
    stride: int
    sizes: Sizes
    workspace: int | None
    graphs: dict[str, dict[str, str]]
    golden: Size
    batch: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class EngineBytes:
    """A serialised engine, and whether it was built now or lay in the cache."""

    data: bytes
    built: bool


class DeviceGraphs:
    """The device graphs of a bundle in one precision."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index

    @classmethod
    def open(cls, bundle: Bundle, precision: str, root: Path | None = None) -> DeviceGraphs:
        """Those in `root` (None: the folder of UGICM_ENGINES, or else the bundle's own `engines`).

        Raises:
            BackendError: there are none, or they were made from another bundle.
        """
        folder = (root or default_root(bundle)) / precision
        remedy = f"run: python -m ugicm.export.to_tensorrt {bundle.path} --precision {precision}"
        where = folder / INDEX
        try:
            values = json.loads(_read(where))
            sizes = Sizes(*((int(h), int(w)) for h, w in (values["sizes"][k] for k in ("least", "usual", "most"))))
            values["golden"] = (int(values["golden"][0]), int(values["golden"][1]))
            index = Index(**{**values, "sizes": sizes, "batch": int(values.get("batch", 1))})
            if index.batch < 1:
                raise ValueError(f"batches of {index.batch}")
        except OSError as error:
            raise BackendError(f"{folder}: holds no device graphs; {remedy}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BackendError(f"{where}: malformed ({error}); {remedy}") from error
        if index.codec_id != bundle.manifest.codec_id or index.stride != bundle.manifest.stride:
            raise BackendError(f"{folder}: was made for codec {index.codec_id}; {remedy}")
        for name, entry in index.graphs.items():
            if name not in bundle.manifest.graphs or entry.get("source") != source_digest(bundle, name):
                raise BackendError(f"{folder}: graph {name} was made from another bundle; {remedy}")
        return cls(folder, index)

    def model(self, name: str) -> bytes:
        """The ONNX bytes of a device graph, verified.

        Raises:
            BackendError: there is none, or it changed.
            BundleError: it holds what no network needs; see `check_graph`.
        """
        where = self.folder / f"{name}.onnx"
        try:
            data = _read(where)
        except OSError as error:
            raise BackendError(
                f"{where}: cannot be read ({error.strerror}); run ugicm.export.to_tensorrt again"
            ) from error
        if hashlib.sha256(data).hexdigest() != self.index.graphs.get(name, {}).get("sha256"):
            raise BackendError(f"{where}: changed since export (SHA-256 differs); run export.to_tensorrt again")
        check_graph(data, where)
        return data

    def engine(
        self,
        api: Api,
        name: str,
        capability: str,
        timing_cache: Path | None = None,
        progress: Progress | None = None,
        usable: Callable[[bytes], bool] | None = None,
    ) -> EngineBytes:
        """The engine of a graph: the cached one if its key is the same and `usable` says so, else a new one.

        Args:
            capability: of the GPU, as "sm_90", or "any" where there is none.

        Raises:
            BackendError: it cannot be built.
        """
        model = self.model(name)
        network = api.parse(model, name)
        one, *several = ranges = profiles(network, self.index)
        folder = self.folder / f"{api.name}-{api.version}-{capability}"
        key = {
            "onnx_sha256": hashlib.sha256(model).hexdigest(),
            "package": api.name,
            "version": api.version,
            "compute_capability": capability,
            "profile": {k: [list(shape) for shape in v] for k, v in one.items()},
            "batches": {k: [list(shape) for shape in v] for k, v in several[0].items()} if several else None,
            "workspace": self.index.workspace,
            "flags": list(FLAGS),
        }
        if kept := self._kept(folder, name, key, usable):
            return kept
        cache = folder / "timing.cache" if timing_cache is None else timing_cache
        try:
            timings = _read(cache)
        except OSError:
            timings = b""
        engine, timings = api.build(network, ranges, self.index.workspace, timings, progress)
        values = {
            "key": key,
            "sha256": hashlib.sha256(engine).hexdigest(),
            "bytes": len(engine),
            "inputs": [_described(t) for t in network.inputs],
            "outputs": [_described(t) for t in network.outputs],
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BackendError(
                f"{folder}: cannot be created ({error.strerror}); name another with {VARIABLE}"
            ) from error
        write_atomically(folder / f"{name}.engine", engine)
        write_atomically(folder / f"{name}.json", (json.dumps(values, indent=1, sort_keys=True) + "\n").encode())
        if timings:
            write_atomically(cache, timings)
        return EngineBytes(engine, True)

    def _kept(
        self, folder: Path, name: str, key: Mapping[str, Any], usable: Callable[[bytes], bool] | None
    ) -> EngineBytes | None:
        """The cached engine, or None where it does not serve: a warning then says why it is built again."""
        file = folder / f"{name}.engine"
        reason = self._why_not(file, folder / f"{name}.json", key)
        if not reason:
            engine = _read(file)
            if usable is None or usable(engine):
                return EngineBytes(engine, False)
            reason = "it does not load here"
        if reason != "missing":
            log.warning("%s: the engine is rebuilt (%s)", file, reason)
        elif others := sorted(p.parent.name for p in self.folder.glob(f"*/{name}.engine")):
            log.warning("%s: built for %s; there is only one for %s", name, folder.name, ", ".join(others))
        return None

    def _why_not(self, file: Path, sidecar: Path, key: Mapping[str, Any]) -> str:
        """Why the engine there does not serve; empty if it does."""
        try:
            values = json.loads(_read(sidecar))
            engine = _read(file)
            found = values["key"]
        except OSError:
            return "missing"
        except (ValueError, KeyError, TypeError):
            return "its sidecar is malformed"
        if different := [k for k in key if found.get(k) != key[k]]:
            return f"another {', '.join(different)}"
        if hashlib.sha256(engine).hexdigest() != values.get("sha256"):
            return "its bytes changed"
        return ""


def default_root(bundle: Bundle) -> Path:
    """The folder of UGICM_ENGINES with a folder a codec in it, or else the bundle's own `engines`."""
    named = os.environ.get(VARIABLE)
    return Path(named) / bundle.manifest.codec_id if named else bundle.path / FOLDER


def source_digest(bundle: Bundle, graph: str) -> str:
    """SHA-256 (hexadecimal) of what a device graph is made from: an exact `h_s` from integers, others from ONNX."""
    name = "exact.npz" if graph == "h_s" and bundle.exact else bundle.manifest.graphs[graph].file
    return hashlib.sha256(bundle.file(name)).hexdigest()


def profiles(network: Network, index: Index) -> list[Profile]:
    """The profile of one image, and that of batches where engines take them and the graph has an axis of images.

    Single images keep a profile of their own, so that batches cost them nothing.
    """
    one = profile(network, index)
    if index.batch == 1 or not any(isinstance(d, str) and _lower(d) == "1*n" for t in network.inputs for d in t.dims):
        return [one]
    return [one, profile(network, index, index.batch)]


def profile(network: Network, index: Index, batch: int = 1) -> Profile:
    """The smallest, usual and largest shape of every input, from the image sizes and the names of the dims.

    Args:
        batch: more than one is the profile of 2 to so many images. Its usual images are as large as the usual one, or
            so small that a whole batch has LARGEST_BATCH pixels.

    Raises:
        BackendError: a dim whose name is no multiple of n, h or w.
    """
    golden = tuple(side * index.stride for side in index.golden)
    scales = network.name not in TRANSFORMS
    usual = index.sizes.usual
    if batch > 1 and batch * usual[0] * usual[1] > LARGEST_BATCH:
        scale = math.sqrt(LARGEST_BATCH / (batch * usual[0] * usual[1]))
        height, width = (int(side * scale) // index.stride * index.stride for side in usual)
        usual = max(height, index.sizes.least[0]), max(width, index.sizes.least[1])
    shapes: Profile = {}
    for tensor in network.inputs:
        found = []
        for size, pick in ((index.sizes.least, min), (usual, None), (index.sizes.most, max)):
            height, width = size
            if scales and pick is min:
                height = width = index.stride
            elif scales and pick is max:
                height, width = max(height, golden[0]), max(width, golden[1])
            images = min(batch, 2) if pick is min else batch
            values = {"n": images, "h": height // index.stride, "w": width // index.stride}
            dims = [d if isinstance(d, int) else _lower(d) for d in tensor.dims]
            shape = evaluate(dims, values)
            if shape is None:
                raise BackendError(f"graph {network.name}: input {tensor.name} has dims {tensor.dims}; export it again")
            found.append(shape)
        shapes[tensor.name] = (found[0], found[1], found[2])
    return shapes


def _lower(dim: str) -> str:
    factor, symbol = multiple(dim)
    return f"{factor}*{symbol.lower()}"


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": str(tensor.dtype), "dims": list(tensor.dims)}


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"{path} is larger than {LARGEST_FILE} bytes")
    return data
