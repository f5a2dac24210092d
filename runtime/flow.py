"""How a file is coded, as generators that ask and do not know who answers.

A flow yields a `Run` of networks, or a `Read` or a `Write` of the range coder, is sent the answer, and returns what was
coded in the end. `Codec` answers one flow in a loop, `many.pipeline` those of many files at once. A codec of twenty
stages asks the same questions twenty times. Here is decoding; encoding stands in `encoder.flow`.

decode: bitstream → z → exact path → rows, means → symbols → context → y_hat → `g_s` → image
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from ugicm.runtime import bitstream, range_coder
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import CodecMismatchError, CorruptFileError, DesynchronisedError
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.symbols import least_bits, padded_size, z_first, z_rows
from ugicm.runtime.tables import Tables

if TYPE_CHECKING:
    from ugicm.runtime.encoder.request import Write
    from ugicm.runtime.processes.parallel_coder import ParallelCoder
Answer = TypeVar("Answer")
Work = Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Asks for `work(networks, *arguments, *options)`; files that ask for one kind may run together (`many.joined`)."""

    work: Work  # a method of `graphs.run.Networks`, or a function of them
    arguments: tuple[Any, ...]  # of this file
    options: tuple[Any, ...]  # the same for all of a kind
    kind: object
    size: tuple[int, int]  # height and width in pixels of the padded image, which bound how many may run together

    def alone(self, networks: Networks) -> Any:
        """The answer."""
        return self.work(networks, *self.arguments, *self.options)


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Asks the range coder for the int32 symbols, of the shape of `rows`, that are coded in substreams."""

    table: str  # "y" or "z"
    streams: Sequence[bytes]
    rows: np.ndarray  # the table row of each symbol
    name: str  # what errors call the file

    def coded(self, tables: Tables, helpers: ParallelCoder | None = None) -> np.ndarray:
        """The symbols, read by the tables that are asked for; helpers, if there are any, have the same."""
        rows = self.rows.ravel()
        if helpers is not None:
            found = helpers.decode(self.streams, rows, self.name)
        else:
            found = range_coder.decode(self.streams, rows, tables, self.name)
        return found.reshape(self.rows.shape)


Request: TypeAlias = "Run | Read | Write"
Flow = Generator["Request", Any, Answer]


def drive(flow: Flow[Answer], answer: Callable[[Request], Any]) -> Answer:
    """The result of a flow when `answer` gives it all that it asks."""
    value = None
    while True:
        try:
            request = flow.send(value)
        except StopIteration as end:
            result: Answer = end.value
            return result
        value = answer(request)


def decoding(
    bundle: Bundle, data: bytes, name: str, vectors: Sequence[np.ndarray | None], device: str | None
) -> Flow[list[np.ndarray]]:
    """The bytes of a .ugic file to images, (H, W, 3) uint8, one for each condition's vectors; see `Codec.decode`."""
    stream = parse(bundle, data, name)
    run = asking(padded_size(stream.height, stream.width, bundle.manifest.stride), stream.quality)
    z = yield from hyper_latents(bundle, stream, name)
    if stream.guard is not None:
        from ugicm.runtime import staged
        from ugicm.runtime.graphs import stages

        latents = yield from staged.decode(bundle, z, stream, name, stages.asking(run))
        symbols, y_hat = latents.symbols, latents.y_hat
    else:
        rows, mean = yield run(Networks.scales_and_means, z)
        symbols = yield Read("y", stream.y, rows, name)
    if bitstream.symbol_checksum(z, symbols) != stream.symbol_checksum:
        raise DesynchronisedError(
            f"{name}: intact, but its symbols are not those that were encoded; check this machine with ugicm verify"
        )
    if stream.guard is None:
        y_hat = yield run(Networks.latents, symbols, mean)
        del rows, mean
    del symbols  # large
    options = (stream.quality, vectors, device)
    return (yield run(Networks.images, y_hat, (stream.height, stream.width), options=options))


def asking(size: tuple[int, int], quality: int) -> Callable[..., Run]:
    """Makes a file's requests to the networks, of one size and quality: of the work, its arguments and its options."""

    def run(work: Work, *arguments: Any, options: tuple[Any, ...] = (), kind: object = None) -> Run:
        return Run(work, arguments, options, (work, size, quality, kind), size)

    return run


def hyper_latents(bundle: Bundle, stream: Bitstream, name: str) -> Flow[np.ndarray]:
    """int32 `z`, (1, Nz, H/64, W/64), of no channels without a hyperprior.

    Raises CorruptFileError: a size that so few bytes cannot hold, or symbols out of range.
    """
    m = bundle.manifest
    rows, columns = (math.ceil(n / m.stride) for n in (stream.height, stream.width))
    bounding, tables = ([stream.z], bundle.z_tables) if m.hyper_channels else (stream.y, bundle.y_tables)
    held, first = sum(map(len, bounding)), z_first(bundle.z_tables, m.hyper_channels, stream.quality)
    least = least_bits(tables, first, m.hyper_channels or m.latent_channels)
    if rows * columns * least > 8 * held + 64 * len(bounding):
        raise CorruptFileError(
            f"{name}: {held} bytes cannot hold {stream.width}×{stream.height} pixels; get the file again"
        )
    z: np.ndarray = yield Read("z", [stream.z], z_rows((1, m.hyper_channels, rows, columns), first), name)
    if bundle.exact and z.size and max(-int(z.min()), int(z.max())) > bundle.exact.input_limit:
        raise CorruptFileError(f"{name}: a hyper-latent is out of range; get the file again")
    return z


def parse(bundle: Bundle, data: bytes, name: str) -> Bitstream:
    """The bitstream of a file that a bundle can decode.

    Raises PartError (a bundle of the encoder only), CodecMismatchError (a file of another codec), CorruptFileError
    (also of stages or a quality that the codec does not have) and what `bitstream.parse` raises.
    """
    bundle.graph("g_s")  # a bundle of the encoder refuses before any work
    stream = bitstream.parse(data, name)
    if stream.codec_id != bundle.codec_id:
        raise CodecMismatchError(
            f"{name}: made by codec {stream.codec_id.hex()}, but this bundle is {bundle.codec_id.hex()}; "
            "name the right one with --bundle"
        )
    if (stream.guard is not None) != (bundle.manifest.schedule is not None):
        raise CorruptFileError(f"{name}: its header and its codec disagree on stages; get the file again")
    if stream.quality > bundle.manifest.qualities:
        from ugicm.runtime.between import check_byte

        check_byte(bundle, stream.quality, name)
    return stream
