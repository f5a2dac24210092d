"""Many files at once: reading, entropy coding in worker processes, inference and output overlap; order is kept.

Each file is a flow (`ugicm.runtime.flow`); here are the executors that answer it. Networks run in one thread, reading
images and writing results in threads, and the range coder in processes, since it holds the interpreter's lock. Where a
backend gains by it, files of one size that wait for the same network go through it together. At most `ahead` files are
under way, so that memory is bounded whatever comes in. Large arrays pass between processes in shared memory. While a
run is under way its codec belongs to it: give other threads one of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ugicm.runtime import flow
from ugicm.runtime.backends import Backend
from ugicm.runtime.backends.gpu.device import LARGEST_BATCH, DeviceArray, check_device
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder.flow import encoding
from ugicm.runtime.encoder.quality import quality_byte
from ugicm.runtime.errors import BackendError, ImageError, UgicError, UsageError
from ugicm.runtime.files import sections
from ugicm.runtime.files.keeping import EVERYTHING, Keeping
from ugicm.runtime.files.picture import Picture
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.many.coders import Coders
from ugicm.runtime.many.joined import together
from ugicm.runtime.many.sources import Source, file_bytes, picture_of
from ugicm.runtime.processes.threads import can_start
from ugicm.runtime.processes.workers import processors


class Codec(Protocol):
    """Of a `ugicm.Codec` as much as a pipeline needs."""

    bundle: Bundle
    backend: Backend
    networks: Networks

    def condition(self, asked: str | float | None) -> np.ndarray | None: ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of one file.

    Attributes:
        source: as it was given.
        value: decoded views, or the bytes of a .ugic file, or what `then` made of them; None after an error.
        error: why there is none.
    """

    source: Source
    value: Any
    error: UgicError | None = None


_FILES = 4  # threads that read, write, and carry files from step to step


@dataclass(frozen=True)
class Pace:
    """How much is under way at once: `workers` processes, files `ahead`, files of a `batch` that run together."""

    workers: int
    ahead: int
    batch: int

    @classmethod
    def of(cls, codec: Codec, workers: int | None, ahead: int | None, batch: int | None) -> Pace:
        """With defaults for what is None. Raises UsageError for numbers that make no sense."""
        workers = max(1, processors() - 1) if workers is None else workers
        batch = getattr(codec.backend, "images_at_once", 1) if batch is None else batch
        ahead = 2 * workers + 2 * batch if ahead is None else ahead
        if workers < 0 or ahead < 1 or batch < 1:
            raise UsageError(f"{workers} workers, {ahead} files ahead, batches of {batch}: give at least 0, 1 and 1")
        return cls(workers, ahead, batch)


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
        codec: its networks run in this process; worker processes have its entropy tables.
        sources: paths, or the bytes of files; taken no faster than they are worked on.
        conditions: the views of each, as for `Codec.decode_views`.
        device: "cuda" leaves images on the GPU.
        workers: processes; None is one for each CPU but one; 0 is none, everything in threads, or in this one where
            no more can be started.
        ahead: files under way at most; None is twice the workers and two batches.
        batch: files of one size and quality that go through a network together, if so many wait and they are no more
            pixels than a large image; None is 8 on a GPU, if TensorRT's engines take so many, and 1 on a CPU, where
            more gain nothing.
        then: called with the source and the views in a thread; what it returns is the outcome's value.

    Yields:
        An outcome for each source. A file that cannot be decoded is one with an error; the rest go on.

    Raises:
        ConditionError, PartError, BackendError, UsageError: what no file could change.
    """
    check_device(codec.backend, device)
    codec.bundle.graph("g_s")
    vectors = [codec.condition(c) for c in conditions]

    def begin(number: int, source: Source) -> flow.Flow[list[np.ndarray]]:
        name = str(source) if isinstance(source, Path | str) else f"input {number}"
        return flow.decoding(codec.bundle, file_bytes(source, name), name, vectors, device)

    return _outcomes(codec, sources, begin, then, Pace.of(codec, workers, ahead, batch))


def encode_many(
    codec: Codec,
    sources: Iterable[Source],
    quality: float | None = None,
    *,
    keeping: Keeping = EVERYTHING,
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
        keeping: what files keep of images besides their pixels; by default what `ugicm encode` keeps. Arrays have
            nothing else.

    Yields:
        An outcome for each source. An image that cannot be encoded is one with an error; the rest go on.

    Raises:
        QualityError, PartError, UsageError: what no image could change.
    """
    codec.bundle.graph("g_a")
    meant = quality_byte(quality, codec.bundle)

    def begin(number: int, source: Source) -> flow.Flow[bytes]:
        return _encoding(codec.bundle, picture_of(source, keeping), meant)

    return _outcomes(codec, sources, begin, then, Pace.of(codec, workers, ahead, batch))


def _encoding(bundle: Bundle, picture: Picture, quality: int) -> flow.Flow[bytes]:
    return sections.attach((yield from encoding(bundle, picture.pixels, quality)), picture)


# ---- networks, in one thread


def images_at_once(networks: Networks, height: int, width: int) -> int:
    """How many images of a size, in pixels, take no more memory together than one large one does."""
    return max(1, int(min(networks.area.pixels, LARGEST_BATCH) // (height * width)))


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A file's request to the networks, and the place for the answer."""

    run: flow.Run
    most: int
    answer: asyncio.Future[Any]


def infer(codec: Codec, runs: Sequence[flow.Run]) -> list[tuple[Any, Exception | None]]:
    """The result or the error of each. Those that fail together are tried one by one: only the file at fault fails."""
    try:
        return [(_kept(result), None) for result in together(codec.networks, runs)]
    except Exception as error:
        if len(runs) == 1:
            return [(None, error)]
    return [infer(codec, [run])[0] for run in runs]


def _kept(result: Any) -> Any:
    """A result whose arrays stay: the graph's next run, which is other files', writes over those on a device."""
    if isinstance(result, tuple):
        return tuple(map(_kept, result))
    return result.keep() if isinstance(result, DeviceArray) else result


# ---- the line


class _Line:
    """The executors, and an event loop in a thread of its own that moves files from one to the next."""

    def __init__(self, codec: Codec, pace: Pace) -> None:
        self.codec = codec
        self._batch = pace.batch
        self._waiting: list[_Waiting] = []
        self._inferring: asyncio.Task[None] | None = None
        self._coders = Coders(codec.bundle, pace.workers)
        self._inference = ThreadPoolExecutor(1, "inference")
        self._threads = ThreadPoolExecutor(_FILES, "files")
        self._callers = ThreadPoolExecutor(max(1, pace.workers), "coders")
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="pipeline", daemon=True)
        self._thread.start()
        self._closed, self._process = False, os.getpid()
        atexit.register(self.close)  # for a run that nobody ends: after this, threads no longer answer

    async def work(self, number: int, source: Source, begin: Callable[[int, Source], flow.Flow[Any]]) -> Any:
        """The result of a source's flow."""
        asking = await self.in_thread(begin, number, source)
        value = None
        while True:
            request = await self.in_thread(_next, asking, value)
            if isinstance(request, _End):
                return request.value
            if isinstance(request, flow.Run):
                value = await self._infer(request)
            else:
                value = await self._in(self._callers, self._coders.answer, request)

    async def _in(self, executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            working = self.loop.run_in_executor(executor, function, *arguments)
        except RuntimeError as error:  # the program ends, or may start no more threads
            raise BackendError(f"no thread can be had for it ({error}); use 0 workers") from error
        return await working

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._in(self._threads, function, *arguments)

    async def _infer(self, run: flow.Run) -> Any:
        """The networks' answer in its turn, together with others of that kind where a whole batch waits."""
        most = min(images_at_once(self.codec.networks, *run.size), self._batch)
        request = _Waiting(run, most, self.loop.create_future())
        self._waiting.append(request)
        if self._inferring is None:
            self._inferring = self.loop.create_task(self._serve())
        return await request.answer

    async def _serve(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            together = [w for w in self._waiting if w.run.kind == first.run.kind][: first.most]
            # A backend prepares for each size of a batch that it meets: there are whole ones, and single files.
            together = together if len(together) == first.most else [first]
            self._waiting = [w for w in self._waiting if w not in together]
            try:
                results = await self._in(self._inference, infer, self.codec, [w.run for w in together])
            except BackendError as refused:
                results = [(None, refused)] * len(together)
            for request, (result, error) in zip(together, results, strict=True):
                if request.answer.done():  # cancelled
                    continue
                if error is None:
                    request.answer.set_result(result)
                else:
                    request.answer.set_exception(error)
        self._inferring = None

    def start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        if self._closed or self._process != os.getpid():
            return  # after a fork, threads and workers are the parent's, and nothing here would answer
        self._closed = True
        atexit.unregister(self.close)
        self.start(self._leave()).result()
        for executor in (self._callers, self._threads, self._inference):
            executor.shutdown(cancel_futures=True)
        self._coders.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _leave(self) -> None:
        """Ends what is under way: nobody waits for it."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@dataclass(frozen=True)
class _End:
    """The end of a flow: a StopIteration may not leave a thread by way of a future."""

    value: Any


def _next(asking: flow.Flow[Any], value: Any) -> flow.Request | _End:
    try:
        return asking.send(value)
    except StopIteration as end:
        return _End(end.value)


def _outcomes(
    codec: Codec,
    sources: Iterable[Source],
    begin: Callable[[int, Source], flow.Flow[Any]],
    then: Callable[[Source, Any], Any] | None,
    pace: Pace,
) -> Iterator[Outcome]:
    if not can_start(_FILES + max(1, pace.workers) + 2):
        if pace.workers:
            raise BackendError("no more threads can be started here; use 0 workers")
        yield from _alone(codec, sources, begin, then)
        return
    line = _Line(codec, pace)
    pending: deque[Future[Outcome]] = deque()

    async def one(number: int, source: Source) -> Outcome:
        try:
            value = await line.work(number, source, begin)
            return Outcome(source, value if then is None else await line.in_thread(then, source, value))
        except (UgicError, MemoryError) as error:
            return _failed(source, error)

    try:
        for number, source in enumerate(sources):
            if len(pending) >= pace.ahead:
                yield pending.popleft().result()
            pending.append(line.start(one(number, source)))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        line.close()


def _failed(source: Source, error: UgicError | MemoryError) -> Outcome:
    if isinstance(error, MemoryError):
        error = ImageError("not enough memory; use a smaller image or fewer files ahead")
    return Outcome(source, None, error)


def _alone(
    codec: Codec,
    sources: Iterable[Source],
    begin: Callable[[int, Source], flow.Flow[Any]],
    then: Callable[[Source, Any], Any] | None,
) -> Iterator[Outcome]:
    """Everything in this thread."""
    coders = Coders(codec.bundle, 0)

    def answer(request: flow.Request) -> Any:
        if isinstance(request, flow.Run):
            return request.alone(codec.networks)
        return coders.answer(request)

    for number, source in enumerate(sources):
        try:
            value = flow.drive(begin(number, source), answer)
            outcome = Outcome(source, value if then is None else then(source, value))
        except (UgicError, MemoryError) as error:
            outcome = _failed(source, error)
        yield outcome
