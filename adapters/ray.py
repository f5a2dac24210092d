"""Folders and buckets through a Ray cluster: actors read, code and write; work of a lost machine is done again.

    import ray
    from ugicm.adapters.ray import encode_dataset

    ray.init("auto")
    for row in encode_dataset("s3://photos/2026", "s3://coded/2026", quality=4).iter_rows():
        if row["error"]:
            print(row["error"])

A folder on one machine and a bucket on many are the same call. A dataset has a row for each picture, made when
something asks for rows: `path`, `outputs`, `error` (None where it went well), `warnings`, `bytes_in`, `bytes_out`,
`pixels`, `carried`, `fatal` (no other file can succeed). A picture that cannot be coded is a row with its error.
Outputs appear under their names when they are whole, at the places relative to the output folder that the inputs have
in theirs; those that exist and are not older than their sources are left out, so that a second run does what is left.

ugicm is installed on every machine; a bundle that does not ship is a folder that every machine has.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from ugicm.adapters import opened, stores
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.commands.decode import Decoding, labels_of, parse_condition
from ugicm.runtime.commands.encode import Encoding, Keeping, made_with
from ugicm.runtime.encoder.quality import default_quality, quality_byte
from ugicm.runtime.errors import BackendError, UgicError, UsageError
from ugicm.runtime.files.images import check_suffix, readable_suffixes
from ugicm.runtime.files.tree import Task
from ugicm.runtime.many.jobs import Convert, Figures, Outcome, Recipe, collected, failed

LOCAL, CLIENT = "local", "ray://"
_ACTOR_CPUS = 0.9  # actors on all CPUs leave a tenth of each for tasks of others
_ROWS = pa.schema(
    [
        ("path", pa.string()),
        ("outputs", pa.list_(pa.string())),
        ("error", pa.string()),
        ("fatal", pa.bool_()),
        ("warnings", pa.list_(pa.string())),
        ("bytes_in", pa.int64()),
        ("bytes_out", pa.int64()),
        ("pixels", pa.int64()),
        ("carried", pa.int64()),
    ]
)
_PATIENCE = 10  # seconds for a cluster to answer
_TOGETHER = 16  # pictures that an actor takes at once
_AHEAD = 4  # of them, that are read meanwhile
_BLOCK = 256  # pictures of a block at most: what is redone where a machine is lost


def encode_dataset(
    source: str | Path,
    output: str | Path,
    *,
    quality: float | None = None,
    bundle: Path | None = None,
    keeping: Keeping = Keeping(),  # noqa: B008  frozen
    effort: int = 0,
    filesystem: Any = None,
    output_filesystem: Any = None,
    force: bool = False,
    actors: int | None = None,
    gpus: float = 0,
    backend: str = "onnxruntime",
    precision: str | None = None,
) -> Dataset:
    """Encodes the pictures below a folder, as `ugicm encode FOLDER -o FOLDER` does. A cluster is connected already.

    Args:
        source, output: folders: paths that all machines see, or URIs of pyarrow's file systems.
        quality, effort: as for `Codec.encode`.
        bundle: the codec's; None is the shipped one.
        keeping: what files keep of a picture besides its pixels.
        filesystem, output_filesystem: pyarrow file systems in which the folders are paths; None finds them.
        force: do files again whose outputs are up to date. On a disk an output of another quality or codec is not; in
            a bucket its age alone counts.
        actors: codecs, each of one thread unless UGICM_THREADS says more; None is one for each CPU or share of a GPU.
        gpus: the share of a GPU that an actor takes.
        backend, precision: as for `Codec.from_bundle`.

    Raises:
        UsageError, QualityError, BundleError: no such folder, quality or bundle.
    """
    opened_bundle = Bundle.open(DEFAULT if bundle is None else bundle)
    meant = default_quality(opened_bundle.manifest.qualities) if quality is None else quality
    quality_byte(meant, opened_bundle)
    recipe = Encoding(bundle, meant, backend, precision, opened.threads() or 1, keeping, wish={"effort": effort})
    files, folder = stores.resolve(source, filesystem)
    targets, out = stores.resolve(output, output_filesystem)
    tasks, clashes = stores.find(files, folder, readable_suffixes(), targets, out, ".ugic", ())
    if not force:
        tasks = stores.left(files, folder, tasks, targets, out, made_with(opened_bundle, meant))
    return _dataset(tasks, clashes, recipe, files, targets, actors, gpus)


def decode_dataset(
    source: str | Path,
    output: str | Path,
    *,
    condition: str | float | None = None,
    form: str = "png",
    bundle: Path | None = None,
    filesystem: Any = None,
    output_filesystem: Any = None,
    force: bool = False,
    actors: int | None = None,
    gpus: float = 0,
    backend: str = "onnxruntime",
    precision: str | None = None,
) -> Dataset:
    """Decodes the .ugic files below a folder, as `ugicm decode FOLDER -o FOLDER` does.

    Args:
        condition: as for `Codec.decode`, or "both".
        form: of the pictures: png, webp, ppm, jpg, …
        bundle: a folder to find codecs in before the shipped ones.
        others: as for `encode_dataset`.

    Raises:
        UsageError, ConditionError, OutputError: no such folder, condition or format.
    """
    conditions = parse_condition(None if condition is None else str(condition))
    suffix, labels = f".{form.lstrip('.').lower()}", labels_of(conditions)
    recipe = Decoding(bundle, conditions, backend, precision, opened.threads() or 1)
    check_suffix(Path(f"form {suffix}"))
    files, folder = stores.resolve(source, filesystem)
    targets, out = stores.resolve(output, output_filesystem)
    tasks, clashes = stores.find(files, folder, (".ugic",), targets, out, suffix, labels)
    if not force:
        tasks = stores.left(files, folder, tasks, targets, out)
    return _dataset(tasks, clashes, recipe, files, targets, actors, gpus)


def work(address: str) -> Callable[[Sequence[Task], Recipe, int], Iterator[tuple[Task, Outcome]]]:
    """What `ugicm.runtime.many.jobs.work` does, on the Ray cluster of an address; `local` starts one here."""

    def on_cluster(tasks: Sequence[Task], recipe: Recipe, actors: int) -> Iterator[tuple[Task, Outcome]]:
        _connect(address, actors)
        try:
            waiting = {str(task.source): task for task in tasks}
            for row in (_through_client if address.startswith(CLIENT) else _rows)(tasks, recipe, actors):
                yield waiting.pop(row["path"]), _outcome(row)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"the Ray cluster gave up: {reason}; the same command goes on from here") from error
        finally:
            ray.shutdown()

    return on_cluster


def _connect(address: str, actors: int) -> None:
    _check_answers(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": True}
    try:
        if address != LOCAL:
            ray.init(address, **quiet)
            return
        local: dict[str, Any] = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
        ray.init(LOCAL, num_cpus=actors, object_store_memory=256 << 20, **local, **quiet)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UsageError(f"--ray {address}: no cluster there: {reason}") from error


def _check_answers(address: str) -> None:
    """Raises UsageError: nothing listens at HOST:PORT or ray://HOST:PORT, for which Ray waits five minutes."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--ray {address}: nothing answers there ({reason}); start a cluster with ray start --head and name the "
            "address that it prints"
        ) from error


def _rows(tasks: Sequence[Task], recipe: Recipe, actors: int) -> Iterator[dict[str, Any]]:
    """The rows of tasks on disks that all machines see."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    files, _ = stores.resolve(Path())
    return _dataset(tasks, (), recipe, files, files, actors, 0).iter_rows()


def _through_client(tasks: Sequence[Task], recipe: Recipe, actors: int) -> Iterator[dict[str, Any]]:
    """The rows, asked of an actor: Ray Data itself does not run through Ray Client."""
    driver = ray.remote(num_cpus=0)(_Driver).remote(list(tasks), recipe, actors)
    while rows := ray.get(driver.more.remote()):
        yield from rows


def _dataset(
    tasks: Sequence[Task],
    clashes: Sequence[tuple[Path, str]],
    recipe: Recipe,
    files: Any,
    targets: Any,
    actors: int | None,
    gpus: float,
) -> Dataset:
    rows = [_row(str(task.source), [str(o) for o in task.outputs]) for task in tasks]
    refused = [_row(str(source), [], error) for source, error in clashes]
    if actors is None:
        there = ray.cluster_resources()
        actors = int(there.get("GPU", 0) / gpus) if gpus else int(there.get("CPU", 1))
    actors = max(1, min(actors, len(rows)))
    if not rows:
        return ray.data.from_arrow(pa.Table.from_pylist(refused, _ROWS))
    size = max(1, min(_BLOCK, len(rows) // (8 * actors)))
    table = pa.Table.from_pylist(rows, pa.schema(list(_ROWS)[:2]))
    paths = ray.data.from_arrow([table.slice(at, size) for at in range(0, len(table), size)])
    # Tasks that read would need processes of their own, which take seconds to start, again and again.
    done = paths.map_batches(
        _Coder,
        fn_constructor_args=(recipe, files, targets),
        batch_size=_TOGETHER,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors),
        num_cpus=_ACTOR_CPUS,
        num_gpus=gpus or None,
    )
    return done.union(ray.data.from_arrow(pa.Table.from_pylist(refused, _ROWS))) if refused else done


def _row(path: str, outputs: list[str], error: str | None = None) -> dict[str, Any]:
    return {"path": path, "outputs": outputs, "error": error, "fatal": False, "warnings": []}


def _outcome(row: dict[str, Any]) -> Outcome:
    figures = None
    if row["error"] is None:
        figures = Figures(row["bytes_in"], row["bytes_out"], row["pixels"], row["carried"])
    return Outcome(figures, row["error"] or "", row["fatal"], tuple(row["warnings"]))


# ---- on the cluster's machines


class _Driver:
    """An actor: runs a dataset on behalf of a client."""

    def __init__(self, tasks: Sequence[Task], recipe: Recipe, actors: int) -> None:
        self._rows = iter(_rows(tasks, recipe, actors))

    def more(self) -> list[dict[str, Any]]:
        """The next rows, none at the end."""
        return list(islice(self._rows, _TOGETHER))


class _Coder:
    """An actor: a codec, opened for its first file, and threads that read ahead of it."""

    def __init__(self, recipe: Recipe, files: Any, targets: Any) -> None:
        self._recipe = recipe
        self._files = files
        self._targets = targets
        self._readers: ThreadPoolExecutor | None = None
        self._convert: Convert | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        paths, outputs = batch["path"].to_pylist(), batch["outputs"].to_pylist()
        done = [self._one(*of) for of in zip(paths, outputs, self._read(paths), strict=True)]
        return pa.Table.from_pylist(done, _ROWS)

    def _read(self, paths: Sequence[str]) -> Iterator[Future[bytes]]:
        """The bytes of each file, read while those before it are coded."""
        self._readers = self._readers or ThreadPoolExecutor(_AHEAD, "readers")
        reading: deque[Future[bytes]] = deque()
        for path in paths:
            reading.append(self._readers.submit(stores.read, self._files, path))
            if len(reading) > _AHEAD:
                yield reading.popleft()
        yield from reading

    def _one(self, path: str, outputs: list[str], data: Future[bytes]) -> dict[str, Any]:
        row = _row(path, outputs)
        with collected() as messages:
            try:
                content = data.result()
                if self._convert is None:
                    self._convert = self._recipe.convert()
                made, figures = self._convert(content, path, outputs)
                for output, coded in zip(outputs, made, strict=True):
                    stores.write(self._targets, output, coded)
                return {**row, **asdict(figures), "warnings": messages}
            except (UgicError, MemoryError, OSError) as reason:
                outcome = failed(Path(path), reason)
                return {**row, "error": outcome.error, "fatal": outcome.fatal, "warnings": messages}
