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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ugicm.runtime.errors import BundleError, PartError, require
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.golden import check_entropy_path
from ugicm.runtime.graphs.views import view_weights
from ugicm.runtime.manifest import FileEntry, GraphEntry, Manifest, read_manifest, read_plain, short
from ugicm.runtime.onnx_bytes.check import check_graph
from ugicm.runtime.onnx_bytes.weights import graph_weights
from ugicm.runtime.tables import Tables

if TYPE_CHECKING:
    from ugicm.runtime.schedule import Schedule

SHIPPED = Path(__file__).parent / "shipped"
DEFAULT = SHIPPED / "ugicm-fast"
LARGEST_BUNDLE = 2**30  # bytes of all files
LARGEST_ARRAYS = 2**28  # of one file, unpacked
LARGEST_COUNT = 4096  # of one file


def codec_id(
    y: Tables,
    z: Tables,
    exact: ExactNetwork | None,
    context_digest: str,
    geometry: tuple[int, int, int, int],
    schedule: Schedule | None = None,
) -> str:
    """16 hexadecimal digits that name all that decides what a bitstream means; not the synthesis, which may change.

    A hash of the integer tables, the integer hyper-synthesis, the context's weights, the geometry (stride, latent
    stride, latent channels, hyper channels) and stages.
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

    Raises BundleError: not such an archive, something in it that is no array of numbers, or more than 256 MiB unpacked.
    """
    try:
        if data.count(b"PK\1\2") > LARGEST_COUNT:
            raise BundleError(f"{where}: holds more than {LARGEST_COUNT} arrays; not a file of this toolkit")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_ARRAYS:
                raise BundleError(f"{where}: unpacks to more than {LARGEST_ARRAYS} bytes; not a file of this toolkit")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except BundleError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise nearly every type on damaged data
        raise BundleError(f"{where}: not a readable array file ({short(error)}); export the bundle again") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":  # a member without .npy comes as bytes
            raise BundleError(f"{where}: {name[:80]!r} is no array of numbers; export the bundle again")
    return found


class Bundle:
    """A verified bundle. Files are read once, when opened; pickled, it is opened again there."""

    def __init__(self, path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
        self.path, self.manifest, self._contents = path, manifest, contents
        self._weights: dict[str, np.ndarray] | None = None
        files = {name: entry.file for name, entry in manifest.graphs.items()}
        given = {name: check_graph(self.file(file), path / file) for name, file in files.items()}
        self._given = given.pop("g_s.view", {})
        if outside := next(filter(given.get, given), None):
            raise BundleError(f"{path / files[outside]}: its weights lie outside of the file; export the bundle again")
        arrays = self.arrays("tables.npz")
        self.y_tables, self.z_tables = (self._tables(arrays, name) for name in ("y", "z"))
        coded, latents = manifest.hyper_channels, manifest.latent_channels
        gains = (self._floats(arrays, name, (manifest.qualities, latents)) for name in ("gain", "inverse_gain"))
        self.gain, self.inverse_gain = (gain[:, :, None, None] for gain in gains)
        names = [f"condition_{name}" for name in manifest.conditions]
        length = (arrays[names[0]].size if names and names[0] in arrays else 0,)
        self.condition_vectors = {name[10:]: self._floats(arrays, name, length)[None] for name in names}
        self.exact = exact = ExactNetwork.from_arrays(self.arrays("exact.npz")) if "exact.npz" in contents else None
        self.golden = self.arrays("golden.npz") if exact or manifest.schedule else {}
        """Golden vectors, checked: `z0`, `scale_index0`, `mean0`, `z1`, …; of stages `symbols0` and `index0`."""
        geometry = (manifest.stride, manifest.latent_stride, latents, coded)
        found = codec_id(self.y_tables, self.z_tables, exact, manifest.context_digest, geometry, manifest.schedule)
        said = f"the manifest says codec id {manifest.codec_id}, its contents make {found}"
        try:
            of_z, integers = (coded, coded * manifest.qualities), coded and manifest.schedule is None
            require(self.z_tables.rows in of_z, "the tables of z do not fit the manifest")
            require(coded or self.y_tables.rows == latents, "the tables of y do not fit the manifest")
            require(bool(exact) == bool(integers), "the numbers in exact.npz do not fit the manifest")
            check_entropy_path(manifest, exact, self.y_tables.rows, self.golden)
            require(found == manifest.codec_id, said)
        except ValueError as error:
            raise BundleError(f"{path}: {error}; export the bundle again") from None

    def _tables(self, arrays: Mapping[str, np.ndarray], name: str) -> Tables:
        columns = (arrays.get(f"{name}_{column}", np.zeros(0)) for column in ("frequencies", "lengths", "offsets"))
        return Tables.from_arrays(*columns, name=f"{self.path}: tables of {name}")

    def _floats(self, arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array of finite numbers."""
        array = arrays.get(name, np.zeros(0))
        if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
            raise BundleError(f"{self.path}: array {name} is missing or not float32 {shape}; export the bundle again")
        return array

    @property
    def codec_id(self) -> bytes:
        """8 bytes."""
        return bytes.fromhex(self.manifest.codec_id)

    def file(self, name: str) -> bytes:
        """A file's bytes. Raises BundleError: the bundle has no such file."""
        try:
            return self._contents[name]
        except KeyError:
            raise BundleError(f"{self.path}: has no {name}; export the bundle again") from None

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an `.npz` of the bundle."""
        return read_arrays(self.file(name), self.path / name)

    def graph(self, name: str) -> tuple[GraphEntry, bytes]:
        """A graph's entry and ONNX file. Raises PartError: the bundle holds only the half without this graph."""
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

        A view in integers has a graph of its own, "g_s.human" beside "g_s": it takes no condition into its weights.

        Raises BundleError: the weights do not fit the condition or the graph; PartError: there is no such graph.
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
        """Reads and verifies every file. Raises BundleError: missing, changed or contradictory; VersionError."""
        path = Path(path)
        manifest = read_manifest(path)
        if sum(entry.bytes for entry in manifest.files.values()) > LARGEST_BUNDLE:
            raise BundleError(f"{path}: larger than {LARGEST_BUNDLE} bytes; not a bundle of this toolkit")
        contents = {name: _read(path / name, entry) for name, entry in manifest.files.items()}
        return cls(path.absolute(), manifest, contents)

    def __reduce__(self) -> tuple[object, ...]:
        return Bundle.open, (self.path,)


def _read(file: Path, entry: FileEntry) -> bytes:
    try:
        data = read_plain(file, entry.bytes + 1)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); copy or export the bundle again") from error
    differs = (
        "its size"
        if len(data) != entry.bytes
        else "SHA-256"
        if hashlib.sha256(data).hexdigest() != entry.sha256
        else ""
    )
    if differs:
        raise BundleError(f"{file}: changed since export ({differs} differs); copy or export the bundle again")
    return data
