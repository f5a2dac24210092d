"""Many files at once: reading, entropy coding in worker processes, inference and output overlap; order is kept.

Of each file's steps those that the range coder takes run in processes (it holds the interpreter's lock), inference in
one thread, reading images and writing results in threads. Where a backend gains by it, files of one size that wait for
inference go through a network together. At most `ahead` files are under way, so that memory is bounded whatever comes
in. Large arrays pass between processes in shared memory. While a run is under way its codec belongs to it: give other
threads one of their own.
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

from ugicm.runtime.backends.gpu.device import DeviceArray
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.codec import Codec, check_image
from ugicm.runtime.errors import ImageError, UgicError, UsageError
from ugicm.runtime.files.images import read_image
from ugicm.runtime.processes.workers import Pool, Shared, Slot, attach, detach, processors

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
    batch: int | None = None,
    then: Callable[[Source, list[np.ndarray]], Any] | None = None,
) -> Iterator[Outcome]:
    """Decodes .ugic files, in order.

    Args:
        codec: its backend runs the networks; processes open its bundle again for the entropy coder.
        sources: paths, or the bytes of files; taken no faster than they are worked on.
        conditions: the views of each, as for `Codec.decode_views`.
        device: "cuda" leaves images on the GPU.
        workers: processes; None is one for each CPU but one; 0 is none, everything in threads.
        ahead: files under way at most; None is twice the workers and two batches.
        batch: files of one size and quality that go through a network together, if so many wait and they are no more
            pixels than a large image; None is 8 with CUDA and 1 elsewhere, where more gain nothing.
        then: called with the source and the views in a thread; what it returns is the outcome's value.

    Yields:
        An outcome for each source. A file that cannot be decoded is one with an error; the rest go on.

    Raises:
        ConditionError, PartError, BackendError, UsageError: what no file could change.
    """
    codec._check_device(device)
    codec.bundle.graph("g_s")
    vectors = [codec._condition(c) for c in conditions]

    def synthesise(files: Sequence[tuple[np.ndarray, Any, Bitstream]]) -> list[list[np.ndarray]]:
        symbols, means, streams = zip(*files, strict=True)
        y_hat = codec._reconstruct(_joined(symbols), _joined(means))
        return codec._views(y_hat, streams, vectors, device)

    def scales(files: Sequence[np.ndarray]) -> list[tuple[np.ndarray, Any]]:
        return _scales(codec, files)

    async def decode(line: _Line, number: int, source: Source) -> Any:
        name = str(source) if isinstance(source, Path | str) else f"input {number}"
        stream, z = await line.in_worker(_parse, source, name)
        most = codec._images_at_once(*codec._padded(stream.height, stream.width))
        slot = await line.slots.get()
        try:
            rows, mean = await line.infer(scales, z, z.shape, most)
            slot.reserve(rows.nbytes + 4 * rows.size, 2)
            shared, symbols = slot.place(rows), slot.empty(rows.shape, np.dtype(np.int32))
            await line.in_worker(_entropy_decode, stream, z, shared, symbols, name)
            kind = z.shape, stream.quality
            views = await line.infer(synthesise, (slot.array(symbols), mean, stream), kind, most)
        finally:
            line.slots.put_nowait(slot)
        return views if then is None else await line.in_thread(then, source, views)

    return _run(codec, sources, decode, workers, ahead, batch)


def encode_many(
    codec: Codec,
    sources: Iterable[Source],
    quality: int | None = None,
    *,
    workers: int | None = None,
    ahead: int | None = None,
    batch: int | None = None,
    then: Callable[[Source, bytes], Any] | None = None,
) -> Iterator[Outcome]:
    """Encodes images, in order.

    Args:
        codec, workers, ahead, batch, then: as for `decode_many`; `then` gets the bytes of a .ugic file.
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

    def analyse(images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
        z, symbols, rows, meant = codec._analyse(images, quality)
        parts = [[np.ascontiguousarray(array[i : i + 1]) for array in (z, symbols, rows)] for i in range(len(images))]
        return [(*part, meant) for part in parts]  # type: ignore[misc]

    async def encode(line: _Line, number: int, source: Source) -> Any:
        image = await line.in_thread(_image, source)
        height, width = check_image(image)
        size = codec._padded(height, width)
        slot = await line.slots.get()
        try:
            z, symbols, rows, meant = await line.infer(analyse, image, size, codec._images_at_once(*size))
            slot.reserve(rows.nbytes + symbols.nbytes, 2)
            shared = slot.place(symbols), slot.place(rows)
            data = await line.in_worker(_entropy_encode, z, *shared, meant, width, height)
        finally:
            line.slots.put_nowait(slot)
        return data if then is None else await line.in_thread(then, source, data)

    return _run(codec, sources, encode, workers, ahead, batch)


# ---- what runs in the one thread that infers


def _scales(codec: Codec, files: Sequence[np.ndarray]) -> list[tuple[np.ndarray, Any]]:
    rows, mean = codec._scales_and_means(_joined(files))
    if isinstance(mean, DeviceArray):  # the graph's next run, which is other files', writes over it
        mean = mean.keep()
    each = [slice(i, i + 1) for i in range(len(files))]
    return [(np.ascontiguousarray(rows[i]), None if mean is None else mean[i]) for i in each]


def _joined(arrays: Sequence[Any]) -> Any:
    """(n, …) of n arrays (1, …), or None of None."""
    if len(arrays) == 1 or arrays[0] is None:
        return arrays[0]
    return DeviceArray.concatenated(arrays) if isinstance(arrays[0], DeviceArray) else np.concatenate(arrays)


@dataclass(frozen=True, eq=False)
class _Request:
    """What a file asks of the networks: one of the arguments of `work`, which takes any number of one kind."""

    work: Callable[[list[Any]], list[Any]]
    argument: Any
    kind: object
    most: int
    answer: asyncio.Future[Any]


def _infer(requests: list[_Request]) -> list[tuple[Any, Exception | None]]:
    """The result or the error of each. What fails together is tried one by one: only the file at fault shall fail."""
    try:
        return [(result, None) for result in requests[0].work([r.argument for r in requests])]
    except Exception as error:
        if len(requests) == 1:
            return [(None, error)]
    return [_infer([request])[0] for request in requests]


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

    def __init__(self, bundle: Bundle, workers: int, ahead: int, batch: int) -> None:
        self.loop = asyncio.new_event_loop()
        self._batch = batch
        self._requests: list[_Request] = []
        self._inferring: asyncio.Task[None] | None = None
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

    async def infer(self, work: Callable[[list[Any]], list[Any]], argument: Any, kind: object, most: int) -> Any:
        """`work([argument])[0]` in its turn, together with others of that work and kind where a whole batch waits."""
        request = _Request(work, argument, kind, min(most, self._batch), self.loop.create_future())
        self._requests.append(request)
        if self._inferring is None:
            self._inferring = self.loop.create_task(self._serve())
        return await request.answer

    async def _serve(self) -> None:
        while self._requests:
            first = self._requests[0]
            together = [r for r in self._requests if (r.work, r.kind) == (first.work, first.kind)][: first.most]
            # A backend prepares for each size of a batch that it meets: there are whole ones, and single files.
            together = together if len(together) == first.most else [first]
            self._requests = [r for r in self._requests if r not in together]
            results = await self._in(self._inference, _infer, together)
            for request, (result, error) in zip(together, results, strict=True):
                if request.answer.done():  # cancelled
                    continue
                if error is None:
                    request.answer.set_result(result)
                else:
                    request.answer.set_exception(error)
        self._inferring = None

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
    batch: int | None,
) -> Iterator[Outcome]:
    workers = max(1, processors() - 1) if workers is None else workers
    batch = getattr(codec.backend, "images_at_once", 1) if batch is None else batch
    ahead = 2 * workers + 2 * batch if ahead is None else ahead
    if workers < 0 or ahead < 1 or batch < 1:
        raise UsageError(f"{workers} workers, {ahead} files ahead, batches of {batch}: give at least 0, 1 and 1")
    return _outcomes(codec, sources, work, workers, ahead, batch)


def _outcomes(
    codec: Codec,
    sources: Iterable[Source],
    work: Callable[[_Line, int, Source], Coroutine[Any, Any, Any]],
    workers: int,
    ahead: int,
    batch: int,
) -> Iterator[Outcome]:
    line = _Line(codec.bundle, workers, ahead, batch)
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
