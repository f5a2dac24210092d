"""`manifest.json`: what a bundle is, and the name, size and SHA-256 of every other file of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ugicm.runtime.errors import BundleError, VersionError, require

if TYPE_CHECKING:
    from ugicm.runtime.schedule import Schedule

FORMAT = 2  # the version that export writes
READ = (1, 2)  # the versions that are read: 1 has no views and no schedules
MANIFEST = "manifest.json"
PARTS = ("both", "encoder", "decoder")


@dataclass(frozen=True)
class GraphEntry:
    """A graph of the bundle: its file and the names of its inputs and outputs."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, values: dict[str, Any]) -> GraphEntry:
        """Of a manifest's values. Raises KeyError, TypeError, ValueError."""
        return cls(_file_name(values["file"]), *(tuple(map(str, values[k])) for k in ("inputs", "outputs")))


@dataclass(frozen=True)
class FileEntry:
    """The digest and size that a file of the bundle must have."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Join:
    """The change that a condition makes to a pointwise convolution: W + up · diag(gate) · down, and bias + shift."""

    weight: str  # names of tensors of the general graph
    bias: str  # 0 where the graph has none
    down: str
    up: str
    gate: tuple[int, int]  # start and stop of its numbers in the condition
    shift: tuple[int, int] | None
    order: str | None  # the tensors that say in which order, and in which units, the shift is added
    units: str | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Join:
        """Of a manifest's values. Raises KeyError, TypeError, ValueError."""
        names = {k: str(values[k]) for k in ("weight", "bias", "down", "up")}
        names |= {k: values[k] and str(values[k]) for k in ("order", "units")}
        gate, shift = _span(*values["gate"]), None if values["shift"] is None else _span(*values["shift"])
        return cls(gate=gate, shift=shift, **names)


def _span(start: Any, stop: Any) -> tuple[int, int]:
    require(0 <= int(start) <= int(stop) <= 2**20, "a part of the condition is out of range")
    return int(start), int(stop)


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`."""

    format: int  # version of the bundle format
    architecture: str  # e.g. "ugicm-fast"
    codec_id: str  # 16 hexadecimal digits; see `bundle.codec_id`
    part: str  # "both", "encoder" or "decoder": which half the bundle holds
    precision: str  # of the transforms, "fp32" or "int8"; the exact path is integer always
    stride: int  # of `z`; images are padded to multiples of it
    latent_stride: int  # of `y`
    latent_channels: int
    hyper_channels: int  # 0 without a hyperprior: no exact path, and a row of `y` tables for each channel
    qualities: int  # legal ones are 1 to this
    conditions: dict[str, float]  # name → beta; empty where the codec has one view only
    context: str | None  # "checkerboard" where means are refined
    context_digest: str  # SHA-256 of the context's weights, "" where there is none
    graphs: dict[str, GraphEntry]
    proof: list[dict[str, Any]]  # the largest possible |accumulator| of each layer of the exact path
    model: dict[str, Any]  # parameters and kMAC/pixel, for people
    files: dict[str, FileEntry] = field(default_factory=dict)
    views: tuple[Join, ...] = ()  # how the weights of graph "g_s.view" are made of those of "g_s" and a condition
    schedule: Schedule | None = None  # of a codec with context, whose symbols are decoded in stages

    @property
    def general(self) -> tuple[str, ...]:
        """Names of the graphs that serve every view; "g_s.view" and the like are some views' own, for CPUs."""
        return tuple(name for name in self.graphs if "." not in name)

    def to_json(self) -> str:
        """Canonical text: the same manifest gives the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> Manifest:
        """Parses and validates. Raises VersionError: of another format; BundleError: anything else, by name."""
        try:
            values = json.loads(text if isinstance(text, str) else text.decode())
            version = values["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{where}: not a manifest; export the bundle again") from error
        if version not in READ:
            said = f"{where}: bundle format {repr(version)[:40]}"
            raise VersionError(f"{said}, but this release reads {READ[0]} to {READ[-1]}; export it again")
        try:
            json.dumps(values, ensure_ascii=False).encode()  # no text of it holds half a character
            graphs, files, conditions = (values[name].items() for name in ("graphs", "files", "conditions"))
            values["graphs"] = {str(k): GraphEntry.of(v) for k, v in graphs}
            values["files"] = {_file_name(k): FileEntry(str(v["sha256"]), int(v["bytes"])) for k, v in files}
            values["conditions"] = {str(k): float(v) for k, v in conditions}
            if values.get("schedule") is not None:
                from ugicm.runtime.schedule import Schedule

                values["schedule"] = Schedule.from_json(values["schedule"], int(values["latent_channels"]))
            values["views"] = tuple(map(Join.of, values.get("views", ())))
            manifest = cls(**values)
            manifest._check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise BundleError(f"{where}: malformed manifest ({short(error)}); export the bundle again") from error
        return manifest

    def _check(self) -> None:
        numbers = (self.stride, self.latent_stride, self.latent_channels, self.hyper_channels + 1, self.qualities)
        sizes = all(isinstance(n, int) and 1 <= n <= 4096 for n in numbers)
        require(sizes and self.qualities <= 255, "a size is out of range")
        multiple = self.stride % self.latent_stride == 0 and (self.hyper_channels or self.stride == self.latent_stride)
        require(multiple, "stride and latent_stride do not fit each other")
        require(self.part in PARTS, f"unknown part {self.part!r}")
        require(self.context in (None, "checkerboard"), f"unknown context {self.context!r}")
        digits = len(self.codec_id) == 16 and len(bytes.fromhex(self.codec_id)) == 8
        require(digits, "codec_id is not 16 hexadecimal digits")
        for text in (self.architecture, self.precision, self.context_digest):
            require(isinstance(text, str) and text.isprintable() and len(text) <= 128, f"{text!r} is no name or digest")
        require(isinstance(self.model, dict), "model must be an object")
        require(all(0 <= beta <= 1 for beta in self.conditions.values()), "a condition lies outside 0 to 1")
        require(all(entry.bytes >= 0 for entry in self.files.values()), "a file has a negative size")
        if self.schedule is not None:
            require({"h_s", *self.schedule.graphs} <= set(self.graphs), "a graph of its schedule is missing")
            self.schedule.check_graphs({name: (graph.inputs, graph.outputs) for name, graph in self.graphs.items()})
        for name in (*self.conditions, *self.graphs):  # they go into names of files
            _file_name(name)
        require(len({join.weight for join in self.views}) == len(self.views), "two views of one weight")
        for name, graph in self.graphs.items():
            whole = graph.file in self.files and graph.inputs and graph.outputs
            require(whole, f"graph {name} has no file, no inputs or no outputs")


def _file_name(name: str) -> str:
    inside = isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name and "\\" not in name
    require(inside, f"file name {name!r} leaves its folder")
    require(name.isprintable() and len(name) <= 128, f"file name {name!r} is none that export writes")
    return name


def short(error: Exception) -> str:
    """An exception's first words, on one line: it may quote whatever a file holds."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_plain(file: Path, most: int) -> bytes:
    """The first bytes of a file of a bundle. Raises BundleError for what is no plain file; OSError."""
    if os.path.islink(file) or (os.path.exists(file) and not os.path.isfile(file)):
        raise BundleError(f"{file}: is a symbolic link or no regular file; a bundle holds plain files only")
    with file.open("rb") as stream:
        return stream.read(min(most, os.fstat(stream.fileno()).st_size + 1))


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle, its other files unopened. Raises BundleError: none, or malformed; VersionError."""
    where = path / MANIFEST
    try:
        data = read_plain(where, 2**22)
    except (OSError, ValueError) as error:  # ValueError: NUL in a name
        raise BundleError(f"{path}: not a bundle (no readable {MANIFEST}); export one with ugicm export") from error
    return Manifest.from_json(data, where)
