"""The bundle: the folder that export writes and the runtime reads.

`manifest.json` names every other file with its size and SHA-256; graphs are ONNX, arrays are `.npz` without pickles.
Opening a bundle verifies all of it before anything is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ugicm.runtime.errors import BundleError, PartError
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.graphs.views import view_weights
from ugicm.runtime.manifest import GraphEntry, Manifest, read_manifest, read_plain, short
from ugicm.runtime.onnx_bytes.check import check_graph
from ugicm.runtime.onnx_bytes.weights import graph_weights
from ugicm.runtime.tables import Tables

if TYPE_CHECKING:
    from ugicm.runtime.schedule import Schedule

SHIPPED = Path(__file__).parent / "shipped"
DEFAULT = SHIPPED / "ugicm-fast"
LARGEST_BUNDLE = 2**30  # bytes of all files
LARGEST_ARRAYS = 2**28  # of one file, unpacked


def codec_id(
    y: Tables,
    z: Tables,
    exact: ExactNetwork | None,
    context_digest: str,
    geometry: tuple[int, int, int, int],
    schedule: Schedule | None = None,
) -> str:
    """Names everything that decides what a bitstream means: 16 hexadecimal digits.

    A hash of the integer tables, the integer hyper-synthesis, the context's weights and the geometry (stride,
    latent stride, latent channels, hyper channels); of a codec with context also its stages.
    The synthesis, which only decides how latents become pixels, is left out: a re-trained or INT8 one reads the same
    files.
    """
    h = hashlib.sha256(b"ugicm codec 1\0")
    h.update(np.asarray(geometry, "<i4").tobytes())
    for tables in (y, z):
        for array, kind in ((tables.lengths, "<i4"), (tables.offsets, "<i4"), (tables.frequencies, "<u4")):
            data = np.ascontiguousarray(array).astype(kind).tobytes()
            h.update(len(data).to_bytes(8, "little") + data)
    h.update(exact.digest() if exact else b"no exact network")
    h.update(context_digest.encode())
    if schedule is not None:  # its band and blocks stand in each file
        h.update(json.dumps(schedule.to_json()["stages"], sort_keys=True).encode())
    return h.hexdigest()[:16]


def read_arrays(data: bytes, where: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` without pickles, their sizes checked before they are read.

    Raises:
        BundleError: not such an archive, or more than 256 MiB when unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_ARRAYS:
                raise BundleError(f"{where}: unpacks to more than {LARGEST_ARRAYS} bytes; not a file of this toolkit")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except BundleError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise nearly every type on damaged data
        raise BundleError(f"{where}: not a readable array file ({short(error)}); export the bundle again") from error


class Bundle:
    """A verified bundle. Files are read once, when opened; pickled, it is opened again there."""

    def __init__(self, path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
        self.path = path
        self.manifest = manifest
        self._contents = contents
        self._given: dict[str, tuple[int, ...]] = {}
        self._weights: dict[str, np.ndarray] | None = None
        for name, entry in manifest.graphs.items():
            given = check_graph(self.file(entry.file), path / entry.file)
            if given and name != "g_s.view":
                raise BundleError(f"{path / entry.file}: its weights lie outside of the file; export the bundle again")
            self._given.update(given)
        arrays = self.arrays("tables.npz")
        self.y_tables, self.z_tables = (self._tables(arrays, name) for name in ("y", "z"))
        self.gain = self._matrix(arrays, "gain", manifest.latent_channels)
        self.inverse_gain = self._matrix(arrays, "inverse_gain", manifest.latent_channels)
        self.condition_vectors = {
            name: self._floats(arrays, f"condition_{name}", 1)[None] for name in manifest.conditions
        }
        self.exact = ExactNetwork.from_arrays(self.arrays("exact.npz")) if "exact.npz" in contents else None
        if self.z_tables.rows not in (manifest.hyper_channels, manifest.hyper_channels * manifest.qualities):
            raise BundleError(f"{path}: the tables of z do not fit the manifest; export the bundle again")
        if (self.exact is None) != (manifest.hyper_channels == 0 or manifest.schedule is not None):
            raise BundleError(f"{path}: exact.npz does not fit the manifest; export the bundle again")
        if not manifest.hyper_channels and len(self.y_tables.lengths) != manifest.latent_channels:
            raise BundleError(f"{path}: the tables of y do not fit the manifest; export the bundle again")
        geometry = (
            manifest.stride,
            manifest.latent_stride,
            manifest.latent_channels,
            manifest.hyper_channels,
        )
        found = codec_id(self.y_tables, self.z_tables, self.exact, manifest.context_digest, geometry, manifest.schedule)
        if found != manifest.codec_id:
            raise BundleError(
                f"{path}: the manifest says codec id {manifest.codec_id}, its contents make {found}; "
                "export the bundle again"
            )

    def _tables(self, arrays: Mapping[str, np.ndarray], name: str) -> Tables:
        columns = [f"{name}_{column}" for column in ("frequencies", "lengths", "offsets")]
        if missing := [c for c in columns if c not in arrays]:
            raise BundleError(f"{self.path}: array {missing[0]} is missing; export the bundle again")
        return Tables.from_arrays(*(arrays[c] for c in columns), name=f"{self.path}: tables of {name}")

    def _matrix(self, arrays: Mapping[str, np.ndarray], name: str, channels: int) -> np.ndarray:
        """(qualities, channels, 1, 1) float32."""
        matrix = self._floats(arrays, name, 2)
        if matrix.shape != (self.manifest.qualities, channels):
            raise BundleError(f"{self.path}: array {name} has a wrong shape; export the bundle again")
        return matrix[:, :, None, None]

    def _floats(self, arrays: Mapping[str, np.ndarray], name: str, dimensions: int) -> np.ndarray:
        """A float32 array of finite numbers."""
        array = arrays.get(name)
        if array is None or array.dtype != np.float32 or array.ndim != dimensions or not np.isfinite(array).all():
            raise BundleError(f"{self.path}: array {name} is missing or no float32 numbers; export the bundle again")
        return array

    @property
    def codec_id(self) -> bytes:
        """8 bytes."""
        return bytes.fromhex(self.manifest.codec_id)

    @cached_property
    def golden(self) -> dict[str, np.ndarray]:
        """Golden vectors of the exact path: `z0`, `scale_index0`, `mean0`, `z1`, …"""
        return self.arrays("golden.npz")

    def file(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            BundleError: the bundle has no such file.
        """
        try:
            return self._contents[name]
        except KeyError:
            raise BundleError(f"{self.path}: has no {name}; export the bundle again") from None

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an `.npz` of the bundle."""
        return read_arrays(self.file(name), self.path / name)

    def graph(self, name: str) -> tuple[GraphEntry, bytes]:
        """A graph's entry and the bytes of its ONNX file.

        Raises:
            PartError: the bundle holds only the half without this graph.
        """
        if name not in self.manifest.graphs:
            raise PartError(
                f"{self.path}: holds the {self.manifest.part} part only, which has no {name}; "
                "use a bundle exported with --part both"
            )
        entry = self.manifest.graphs[name]
        return entry, self.file(entry.file)

    @property
    def folds(self) -> bool:
        """Whether a condition goes into the weights of `g_s`, or has graphs of its own; else it is an input."""
        names = self.manifest.graphs
        return "g_s.view" in names or any(f"g_s.{condition}" in names for condition in self.manifest.conditions)

    def view(self, condition: np.ndarray) -> tuple[bytes, dict[str, np.ndarray]]:
        """`g_s` under a condition, (1, D) float32: an ONNX file without that input, and the weights to give it.

        A view may have a graph of its own, "g_s.human" beside "g_s": one in integers, which no longer takes a condition
        into its weights.

        Raises:
            BundleError: the weights do not fit the condition or the graph.
            PartError: the bundle holds only the half without this graph, or has no views.
        """
        for name, known in self.condition_vectors.items():
            if f"g_s.{name}" in self.manifest.graphs and np.array_equal(known, condition):
                return self.graph(f"g_s.{name}")[1], {}
        general, model = self.graph("g_s")
        where = self.path / general.file
        if self._weights is None:
            self._weights = graph_weights(model, where)
        try:
            weights = view_weights(self._weights, self.manifest.views, condition)
        except ValueError as error:
            raise BundleError(f"{where}: {error}; copy or export the bundle again") from None
        for name, shape in self._given.items():
            if name not in weights or weights[name].shape != shape:
                raise BundleError(f"{where}: has no {name[:80]!r} of shape {shape}; copy or export the bundle again")
        return self.graph("g_s.view")[1], {name: weights[name] for name in self._given}

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Reads and verifies every file.

        Raises:
            BundleError: no bundle there, a missing or changed file, or contents that contradict the manifest.
            VersionError: a bundle of another format version.
        """
        path = Path(path)
        manifest = read_manifest(path)
        contents = {}
        if sum(entry.bytes for entry in manifest.files.values()) > LARGEST_BUNDLE:
            raise BundleError(f"{path}: larger than {LARGEST_BUNDLE} bytes; not a bundle of this toolkit")
        for name, entry in manifest.files.items():
            file = path / name
            contents[name] = _read(file, entry.bytes)
            if hashlib.sha256(contents[name]).hexdigest() != entry.sha256:
                raise BundleError(f"{file}: changed since export (SHA-256 differs); copy or export the bundle again")
        return cls(path.absolute(), manifest, contents)

    def __reduce__(self) -> tuple[object, ...]:
        return Bundle.open, (self.path,)


def _read(file: Path, size: int) -> bytes:
    try:
        data = read_plain(file, size + 1)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); copy or export the bundle again") from error
    if len(data) != size:
        raise BundleError(f"{file}: changed since export (its size differs); copy or export the bundle again")
    return data
