"""`manifest.json`: what a bundle is, and the name, size and SHA-256 of every other file of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ugicm.runtime.errors import BundleError, VersionError

if TYPE_CHECKING:
    from ugicm.runtime.schedule import Schedule

FORMAT = 2
"""The version that export writes."""
READ = (1, 2)
"""The versions that are read: 1 has no views and no schedules."""
MANIFEST = "manifest.json"
PARTS = ("both", "encoder", "decoder")


@dataclass(frozen=True)
class GraphEntry:
    """A graph of the bundle: its file and the names of its inputs and outputs."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FileEntry:
    """The digest and size that a file of the bundle must have."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Join:
    """The change that a condition makes to a pointwise convolution: W + up · diag(gate) · down, and bias + shift.

    Attributes:
        weight, bias, down, up: names of tensors of the general graph; a bias that it does not have is 0.
        gate, shift: (start, stop) of their numbers in the condition; no shift is None.
        order, units: tensors that say in which order and in which units the shift is added, or None.
    """

    weight: str
    bias: str
    down: str
    up: str
    gate: tuple[int, int]
    shift: tuple[int, int] | None
    order: str | None
    units: str | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Join:
        """Of a manifest's values. Raises KeyError, TypeError, ValueError."""
        names = {k: None if values[k] is None else str(values[k]) for k in ("order", "units")}
        spans = {k: None if values[k] is None else _span(values[k]) for k in ("gate", "shift")}
        return cls(**{k: str(values[k]) for k in ("weight", "bias", "down", "up")}, **names, **spans)  # type: ignore[arg-type]


def _span(values: list[int]) -> tuple[int, int]:
    start, stop = (int(n) for n in values)
    if not 0 <= start <= stop <= 2**20:
        raise ValueError("a part of the condition is out of range")
    return start, stop


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`.

    Attributes:
        format: version of the bundle format.
        architecture: e.g. "ugicm-fast".
        codec_id: 16 hexadecimal digits; see `codec_id`.
        part: "both", "encoder" or "decoder": which half the bundle holds.
        precision: of the transforms, "fp32" or "int8"; the exact path is integer always.
        stride: images are padded to multiples of it.
        latent_stride, latent_channels, hyper_channels: geometry of `y` and `z`; `z` lies at `stride`. A codec
            without a hyperprior has 0 hyper channels, no exact path, and a row of `y` tables for each channel.
        qualities: legal qualities are 1..qualities.
        conditions: name → beta; empty where the codec has one view only.
        context: "checkerboard" where means are refined, else None.
        context_digest: SHA-256 of the context's weights, "" where there is none.
        graphs: name → entry.
        proof: the largest possible |accumulator| of each layer of the exact path.
        model: parameters and kMAC/pixel, for people.
        files: file name → entry.
        views: how the weights of graph "g_s.view" are made of those of "g_s" and a condition; none without that graph.
        schedule: of a codec with context, whose symbols are decoded in stages; else None.
    """

    format: int
    architecture: str
    codec_id: str
    part: str
    precision: str
    stride: int
    latent_stride: int
    latent_channels: int
    hyper_channels: int
    qualities: int
    conditions: dict[str, float]
    context: str | None
    context_digest: str
    graphs: dict[str, GraphEntry]
    proof: list[dict[str, Any]]
    model: dict[str, Any]
    files: dict[str, FileEntry] = field(default_factory=dict)
    views: tuple[Join, ...] = ()
    schedule: Schedule | None = None

    @property
    def general(self) -> tuple[str, ...]:
        """Names of the graphs that serve every view; "g_s.view" and the like are some views' own, for CPUs."""
        return tuple(name for name in self.graphs if "." not in name)

    def to_json(self) -> str:
        """Canonical text: the same manifest gives the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path) -> Manifest:
        """Parses and validates.

        Raises:
            VersionError: a format this release does not read.
            BundleError: anything else that is wrong, by name.
        """
        try:
            values = json.loads(text)
            version = values["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{where}: not a manifest; export the bundle again") from error
        if version not in READ:
            said = f"{where}: bundle format {repr(version)[:40]}"
            raise VersionError(f"{said}, but this release reads {READ[0]} to {READ[-1]}; export it again")
        try:
            json.dumps(values, ensure_ascii=False).encode()  # no text of it holds half a character
            values["graphs"] = {
                str(k): GraphEntry(_file_name(v["file"]), tuple(map(str, v["inputs"])), tuple(map(str, v["outputs"])))
                for k, v in values["graphs"].items()
            }
            values["files"] = {
                _file_name(k): FileEntry(str(v["sha256"]), int(v["bytes"])) for k, v in values["files"].items()
            }
            values["conditions"] = {str(k): float(v) for k, v in values["conditions"].items()}
            if values.get("schedule") is not None:
                from ugicm.runtime.schedule import Schedule

                values["schedule"] = Schedule.from_json(values["schedule"], int(values["latent_channels"]))
            values["views"] = tuple(Join.of(join) for join in values.get("views", ()))
            if any(entry.bytes < 0 for entry in values["files"].values()):
                raise ValueError("a file has a negative size")
            manifest = cls(**values)
            manifest._check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise BundleError(f"{where}: malformed manifest ({short(error)}); export the bundle again") from error
        return manifest

    def _check(self) -> None:
        numbers = (self.stride, self.latent_stride, self.latent_channels, self.hyper_channels + 1, self.qualities)
        if not all(isinstance(n, int) and 1 <= n <= 4096 for n in numbers) or self.qualities > 255:
            raise ValueError("a size is out of range")
        if self.stride % self.latent_stride or (not self.hyper_channels and self.stride != self.latent_stride):
            raise ValueError("stride and latent_stride do not fit each other")
        if self.part not in PARTS:
            raise ValueError(f"unknown part {self.part!r}")
        if self.context not in (None, "checkerboard"):
            raise ValueError(f"unknown context {self.context!r}")
        if len(self.codec_id) != 16 or len(bytes.fromhex(self.codec_id)) != 8:
            raise ValueError("codec_id is not 16 hexadecimal digits")
        for text in (self.architecture, self.precision, self.context_digest):
            if not isinstance(text, str) or not text.isprintable() or len(text) > 128:
                raise ValueError(f"{text!r} is no name or digest")
        if not isinstance(self.model, dict):
            raise ValueError("model must be an object")
        if not all(0 <= beta <= 1 for beta in self.conditions.values()):
            raise ValueError("a condition lies outside 0 to 1")
        if self.schedule is not None and not {"h_s", *self.schedule.graphs} <= set(self.graphs):
            raise ValueError("a graph of its schedule is missing")
        if self.schedule is not None:
            self.schedule.check_graphs({name: (graph.inputs, graph.outputs) for name, graph in self.graphs.items()})
        for name in (*self.conditions, *self.graphs):  # they go into names of files
            _file_name(name)
        if len({join.weight for join in self.views}) < len(self.views):
            raise ValueError("two views of one weight")
        for name, graph in self.graphs.items():
            if graph.file not in self.files or not graph.inputs or not graph.outputs:
                raise ValueError(f"graph {name} has no file, no inputs or no outputs")


def _file_name(name: str) -> str:
    if not isinstance(name, str) or not name or Path(name).name != name or "\\" in name or name in (".", ".."):
        raise ValueError(f"file name {name!r} leaves its folder")
    if not name.isprintable() or len(name) > 128:
        raise ValueError(f"file name {name!r} is none that export writes")
    return name


def short(error: Exception) -> str:
    """An exception's first words, on one line: it may quote whatever a file holds."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_plain(file: Path, most: int) -> bytes:
    """The first bytes of a file of a bundle. Raises BundleError for what is no plain file; OSError."""
    if os.path.islink(file) or (os.path.exists(file) and not os.path.isfile(file)):
        raise BundleError(f"{file}: is a symbolic link or no regular file; a bundle holds plain files only")
    with file.open("rb") as stream:
        return stream.read(most)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle, without opening its other files.

    Raises:
        BundleError: there is none, or it is malformed.
        VersionError: a format this release does not read.
    """
    where = path / MANIFEST
    try:
        data = read_plain(where, 2**22)
    except (OSError, ValueError) as error:  # ValueError: NUL in a name
        raise BundleError(f"{path}: not a bundle (no readable {MANIFEST}); export one with ugicm export") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{where}: not a manifest; export the bundle again") from error
    return Manifest.from_json(text, where)
