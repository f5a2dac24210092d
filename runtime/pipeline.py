"""Many files at once: reading, entropy coding in worker processes, inference and output overlap; order is kept.

Of each file's steps those that the range coder takes run in processes (it holds the interpreter's lock), inference in
one thread, reading images and writing results in threads. At most `ahead` files are under way, so that memory is
bounded whatever comes in. Large arrays pass between processes in shared memory. While a run is under way its codec
belongs to it: give other threads one of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.device import DeviceArray
from runtime.bitstream import Bitstream
from runtime.bundle import Bundle
from runtime.codec import Codec
from runtime.errors import ImageError, UgicError, UsageError
from runtime.images import read_image
from runtime.workers import Pool, Shared, Slot, attach, detach, processors

Source = Path | str | bytes | np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        source: as it was given.
        value: decoded views, or the bytes of a .ugic file, or what `then` made of them; None after an error.
        error: why there is none.
    """

    source: Source
    value: Any
    error: UgicError | None = None


def decode_many(
    codec: Codec,
    sources: Iterable[Source],
    conditions: Sequence[str | float | None] = (None,),
    *,
    device: str | None = None,
    workers: int | None = None,
    ahead: int | None = None,
    then: Callable[[Source, list[np.ndarray]], Any] | None = None,
) -> Iterator[Outcome]:
    """Decodes .ugic files, in order.

    Args:
        codec: its backend runs the networks; processes open its bundle again for the entropy coder.
        sources: paths, or the bytes of files; taken no faster than they are worked on.
        conditions: the views of each, as for `Codec.decode_views`.
        device: "cuda" leaves images on the GPU.
        workers: processes; None is one for each CPU but one; 0 is none, everything in threads.
        ahead: files under way at most; None is twice the workers and two.
        then: called with the source and the views in a thread; what it returns is the outcome's value.

    Yields:
        An outcome for each source. A file that cannot be decoded is one with an error; the rest go on.

    Raises:
        ConditionError, PartError, BackendError, UsageError: what no file could change.
    """
    codec._check_device(device)
    codec.bundle.graph("g_s")
    vectors = [codec._condition(c) for c in conditions]

    async def decode(line: _Line, number: int, source: Source) -> Any:
        name = str(source) if isinstance(source, Path | str) else f"input {number}"
        stream, z = await line.in_worker(_parse, source, name)
        slot = await line.slots.get()
        try:
            rows, mean = await line.in_order(_scales, codec, z)
            slot.reserve(rows.nbytes + 4 * rows.size, 2)
            shared, symbols = slot.place(rows), slot.empty(rows.shape, np.dtype(np.int32))
            await line.in_worker(_entropy_decode, stream, z, shared, symbols, name)
            views = await line.in_order(_synthesise, codec, slot.array(symbols), mean, stream, vectors, device)
        finally:
            line.slots.put_nowait(slot)
        return views if then is None else await line.in_thread(then, source, views)

    return _run(codec, sources, decode, workers, ahead)


def encode_many(
    codec: Codec,
    sources: Iterable[Source],
    quality: int | None = None,
    *,
    workers: int | None = None,
    ahead: int | None = None,
    then: Callable[[Source, bytes], Any] | None = None,
) -> Iterator[Outcome]:
    """Encodes images, in order.

    Args:
        codec, workers, ahead, then: as for `decode_many`; `then` gets the bytes of a .ugic file.
        sources: paths of images, or (H, W, 3) uint8 arrays.
        quality: as for `Codec.encode`.

    Yields:
        An outcome for each source. An image that cannot be encoded is one with an error; the rest go on.

    Raises:
        QualityError, PartError, UsageError: what no image could change.
    """
    codec.bundle.graph("g_a")
    if quality is not None:
        codec._check_quality(quality)

    async def encode(line: _Line, number: int, source: Source) -> Any:
        image = await line.in_thread(_image, source)
        slot = await line.slots.get()
        try:
            z, symbols, rows, meant = await line.in_order(_analyse, codec, image, quality)
            slot.reserve(rows.nbytes + symbols.nbytes, 2)
            shared = slot.place(symbols), slot.place(rows)
            height, width = image.shape[:2]
            data = await line.in_worker(_entropy_encode, z, *shared, meant, width, height)
        finally:
            line.slots.put_nowait(slot)
        return data if then is None else await line.in_thread(then, source, data)

    return _run(codec, sources, encode, workers, ahead)


# ---- what runs in the one thread that infers


def _scales(codec: Codec, z: np.ndarray) -> tuple[np.ndarray, Any]:
    rows, mean = codec._scales_and_means(z)
    if isinstance(mean, DeviceArray):  # the graph's next run, which is another file's, writes over it
        mean = mean.keep()
    return np.ascontiguousarray(rows), mean


def _synthesise(
    codec: Codec,
    symbols: np.ndarray,
    mean: Any,
    stream: Bitstream,
    vectors: list[np.ndarray | None],
    device: str | None,
) -> list[np.ndarray]:
    return codec._views(codec._reconstruct(symbols, mean), stream, vectors, device)


def _analyse(codec: Codec, image: np.ndarray, quality: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    z, symbols, rows, meant = codec._analyse(image, quality)
    return z, np.ascontiguousarray(symbols), np.ascontiguousarray(rows), meant


# ---- what runs in threads


def _image(source: Source) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, bytes):
        raise ImageError("an image is given by its path or as an array; these are bytes")
    return read_image(Path(source))


# ---- what runs in workers, each with a codec that has no backend


def _open_worker(bundle: Path) -> Codec:
    return _without_backend(Bundle.open(bundle))


def _without_backend(bundle: Bundle) -> Codec:
    return Codec(bundle, None)  # type: ignore[arg-type]


def _parse(codec: Codec, source: Source, name: str) -> tuple[Bitstream, np.ndarray]:
    if isinstance(source, np.ndarray):
        raise UsageError(f"{name}: is an array; give the path or the bytes of a .ugic file")
    if not isinstance(source, bytes):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise UsageError(f"{name}: cannot be read: {error.strerror or error}") from error
    stream = codec._parse(source, name)
    return stream, codec._decode_z(stream, name)


def _entropy_decode(codec: Codec, stream: Bitstream, z: np.ndarray, rows: Shared, symbols: Shared, name: str) -> None:
    attach(symbols)[:] = codec._decode_y(stream, z, attach(rows), name)


def _entropy_encode(
    codec: Codec, z: np.ndarray, symbols: Shared, rows: Shared, quality: int, width: int, height: int
) -> bytes:
    return codec._pack(z, attach(symbols), attach(rows), quality, width, height)


# ---- the line


class _Line:
    """The executors, and an event loop in a thread of its own that moves files from one to the next."""

    def __init__(self, bundle: Bundle, workers: int, ahead: int) -> None:
        self.loop = asyncio.new_event_loop()
        self._codec = _without_backend(bundle)
        self._inference = ThreadPoolExecutor(1, "inference")
        self._threads = ThreadPoolExecutor(4, "files")
        self._pool = Pool(workers, _open_worker, bundle.path)
        self._callers = ThreadPoolExecutor(workers, "workers") if workers else None
        self.slots: asyncio.Queue[Slot] = asyncio.Queue()
        self._all_slots = [Slot() for _ in range(ahead)]
        for slot in self._all_slots:
            self.slots.put_nowait(slot)
        self._thread = threading.Thread(target=self.loop.run_forever, name="pipeline", daemon=True)
        self._thread.start()

    async def _in(self, executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self.loop.run_in_executor(executor, function, *arguments)

    async def in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._callers is None:
            return await self._in(self._threads, function, self._codec, *arguments)
        return await self._in(self._callers, self._pool.call, function, *arguments)

    async def in_order(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._in(self._inference, function, *arguments)

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._in(self._threads, function, *arguments)

    def start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        for executor in (self._callers, self._threads, self._inference):
            if executor is not None:
                executor.shutdown(cancel_futures=True)
        self._pool.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        for slot in self._all_slots:
            slot.close()
        detach()


def _run(
    codec: Codec,
    sources: Iterable[Source],
    work: Callable[[_Line, int, Source], Coroutine[Any, Any, Any]],
    workers: int | None,
    ahead: int | None,
) -> Iterator[Outcome]:
    workers = max(1, processors() - 1) if workers is None else workers
    ahead = 2 * workers + 2 if ahead is None else ahead
    if workers < 0 or ahead < 1:
        raise UsageError(f"{workers} workers and {ahead} files ahead: give at least 0 and 1")
    return _outcomes(codec, sources, work, workers, ahead)


def _outcomes(
    codec: Codec,
    sources: Iterable[Source],
    work: Callable[[_Line, int, Source], Coroutine[Any, Any, Any]],
    workers: int,
    ahead: int,
) -> Iterator[Outcome]:
    line = _Line(codec.bundle, workers, ahead)
    pending: deque[Future[Outcome]] = deque()

    async def one(number: int, source: Source) -> Outcome:
        try:
            return Outcome(source, await work(line, number, source))
        except UgicError as error:
            return Outcome(source, None, error)
        except MemoryError:
            return Outcome(source, None, ImageError("not enough memory; use a smaller image or fewer files ahead"))

    try:
        for number, source in enumerate(sources):
            if len(pending) >= ahead:
                yield pending.popleft().result()
            pending.append(line.start(one(number, source)))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        line.close()
