"""The codec: image to bitstream and back, along the way a file takes.

encode: image → `g_a` → y → `h_a` → z → exact path → scale indexes, means → context → symbols → range coder → bitstream
decode: bitstream → z → exact path → scale indexes, means → symbols → context → y_hat → `g_s` → image
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ugicm.runtime import bitstream, range_coder
from ugicm.runtime.admission import Run, admitted_runner
from ugicm.runtime.backends import Backend, Graph, open_backend
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.catalogue import DEFAULT, find_bundle
from ugicm.runtime.errors import (
    BackendError,
    CodecMismatchError,
    ConditionError,
    CorruptFileError,
    DesynchronisedError,
    ImageError,
    QualityError,
    UsageError,
)
from ugicm.runtime.graphs.tiles import TILED, Tiler, exact_reach

if TYPE_CHECKING:
    from ugicm.runtime.many.pipeline import Outcome, Source
    from ugicm.runtime.processes.parallel_coder import ParallelCoder

__all__ = ["Codec", "find_bundle"]

SYMBOLS_A_SUBSTREAM = 131072
LARGEST_SYMBOL = 2**31 - 1
CACHED = 2**17  # numbers of an array that stay in a processor's cache, several such arrays beside each other
LARGEST_BATCH = 8e6  # pixels, on a GPU
VIEWS_KEPT = 4  # sessions of the conditioned graph, each for one condition
DEFAULT_QUALITY = 4
STAGES = {"g_s_trunk": "g_s", "condition": "g_s", "h_s_mean": "context"}  # graphs whose time counts as another's


class Codec:
    """Encodes and decodes with one bundle.

    Attributes:
        bundle: the verified bundle.
        timings: milliseconds by stage of the last call, on this object; for encode "g_a", "h_a", "exact", "context",
            "entropy", for decode "entropy", "exact", "context", "g_s".
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self.timings: dict[str, float] = {}
        self._graphs: dict[str, Graph] = {}
        self._views_of: dict[bytes, Graph] = {}  # condition → `g_s` with it folded in; the last used stand last
        self._exact: Run | None = None
        # On a GPU arrays stay on the device, and images are run whole.
        self._tiler = None if hasattr(backend, "device") else Tiler(bundle.manifest, self._run_whole)
        self._coder: ParallelCoder | None = None
        self._least_bits = least_bits(bundle.z_tables if bundle.manifest.hyper_channels else bundle.y_tables)

    @classmethod
    def from_bundle(
        cls,
        path: str | Path | None = None,
        *,
        backend: str = "onnxruntime",
        threads: int | None = None,
        precision: str | None = None,
        entropy_workers: int = 0,
    ) -> Codec:
        """Opens a bundle, verified (None: the shipped one), on a backend.

        Args:
            backend: a name of `runtime.backends.NAMES`.
            threads: CPU threads (None: the library's choice).
            precision: of the transforms, for GPU backends; see `runtime.backends.open_backend`.
            entropy_workers: processes that code the symbols of one large image together with this one; no more are
                started than there are other CPUs. A script that asks for them opens codecs below
                `if __name__ == "__main__":`. They end with `close` or with this process.

        Raises:
            BundleError, VersionError, BackendError, UsageError: see those types.
        """
        if entropy_workers < 0:
            raise UsageError(f"{entropy_workers} entropy workers; give 0 or more")
        bundle = Bundle.open(DEFAULT if path is None else path)
        coder = None
        if entropy_workers:
            from ugicm.runtime.processes.parallel_coder import ParallelCoder

            coder = ParallelCoder(bundle.y_tables, entropy_workers)  # they start while the backend loads
        codec = cls(bundle, open_backend(backend, threads, bundle, precision))
        codec._coder = coder
        return codec

    def close(self) -> None:
        """Ends the entropy workers, if there are any; the codec goes on without."""
        if self._coder is not None:
            self._coder.close()

    @property
    def codec_id(self) -> bytes:
        """8 bytes that name what bitstreams of this codec mean."""
        return self.bundle.codec_id

    @property
    def qualities(self) -> int:
        """Legal qualities are 1 to this."""
        return self.bundle.manifest.qualities

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions; empty for a codec with one view."""
        return tuple(self.bundle.manifest.conditions)

    # ---- encode

    def encode(self, image: np.ndarray, quality: int | None = None) -> bytes:
        """Compresses an image.

        Args:
            image: (H, W, 3) uint8 RGB, each side 1 to 65535.
            quality: 1 (smallest) to `qualities`; None is 4, or the best of a codec with fewer.

        Returns:
            The bytes of a .ugic file.

        Raises:
            ImageError: not such an array.
            QualityError: out of range.
            PartError: a bundle of the decoder only.
        """
        self.timings = {}
        check_image(image)
        z, symbols, scale_index, quality = self._analyse([image], quality)
        with self._stage("entropy"):
            height, width = image.shape[:2]
            return self._pack(z, symbols, scale_index, quality, width, height)

    def _analyse(
        self, images: Sequence[np.ndarray], quality: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """`z`, the symbols, their table rows of images that are of one size once padded, and the quality meant."""
        quality = min(DEFAULT_QUALITY, self.qualities) if quality is None else quality
        self._check_quality(quality)
        y = self._run("g_a", image=self._pad(images), gain=self.bundle.gain[quality - 1 : quality])
        z = self._hyper_latents(y)
        return z, *self._symbols(y, z), quality

    def _pack(
        self, z: np.ndarray, symbols: np.ndarray, scale_index: np.ndarray, quality: int, width: int, height: int
    ) -> bytes:
        """The file of what `_analyse` gave."""
        z_stream = range_coder.encode(z.ravel(), self._z_rows(z.shape), self.bundle.z_tables)[0]
        count = max(1, math.ceil(symbols.size / SYMBOLS_A_SUBSTREAM))
        if self._coder is None:
            y_streams = range_coder.encode(symbols.ravel(), scale_index.ravel(), self.bundle.y_tables, count)
        else:
            y_streams = self._coder.encode(symbols.ravel(), scale_index.ravel(), count)
        checksum = bitstream.symbol_checksum(z, symbols)
        return bitstream.pack(Bitstream(self.codec_id, quality, width, height, z_stream, tuple(y_streams), checksum))

    def _hyper_latents(self, y: np.ndarray) -> np.ndarray:
        """int32 (n, Nz, H/64, W/64) `z`; of no channels, at the resolution of `y`, without a hyperprior."""
        if not self.bundle.manifest.hyper_channels:
            return np.zeros((y.shape[0], 0, *y.shape[2:]), np.int32)
        return self._round_z(self._run("h_a", y=y))

    def _round_z(self, z: np.ndarray) -> np.ndarray:
        if not np.isfinite(z).all():
            raise BackendError("h_a gave values that are no numbers; the bundle or the backend is broken")
        limit = self.bundle.exact.input_limit if self.bundle.exact else LARGEST_SYMBOL
        return np.clip(np.rint(z), -limit, limit).astype(np.int32)

    def _symbols(self, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int32 symbols, uint8 or uint16 table rows) of `y`, each (n, M, H/16, W/16)."""
        scale_index, mean = self._scales_and_means(z)
        arrays = {"y": y, "scale_index": scale_index}
        if mean is not None:
            arrays["mean"] = mean
        context = self.bundle.manifest.context is not None
        if context:
            arrays["anchor"] = checkerboard(*y.shape[2:])
        if self._tiler is None:
            return self._quantised(**arrays), scale_index
        return self._tiler.latents(arrays, self._quantised, context), scale_index

    def _quantised(
        self,
        y: np.ndarray,
        scale_index: np.ndarray,
        mean: np.ndarray | None = None,
        anchor: np.ndarray | None = None,
    ) -> np.ndarray:
        """int32 symbols of a part of `y`, from arrays of the same size; `anchor` with a context."""
        symbols = np.empty(y.shape, np.int32)
        for part in _channels(y.shape):
            residual = np.array(y[:, part]) if mean is None else y[:, part] - mean[:, part]
            symbols[:, part] = _quantise(residual, self.bundle.y_tables.coded(scale_index[:, part]))
            if anchor is not None:
                symbols[:, part] *= anchor.astype(np.int32)
        if anchor is None or mean is None:
            return symbols
        # With the symbols of the others at 0, what comes out at the others is their refined mean.
        refined = self._run("context", symbols=symbols, mean=mean, anchor=anchor)
        for part in _channels(y.shape):
            found = _quantise(y[:, part] - refined[:, part], self.bundle.y_tables.coded(scale_index[:, part]))
            np.copyto(symbols[:, part], found, where=anchor == 0)
        return symbols

    # ---- decode

    def decode(
        self, data: bytes, condition: str | float | None = None, name: str = "<bytes>", device: str | None = None
    ) -> np.ndarray:
        """Decodes one view.

        Args:
            data: the bytes of a .ugic file.
            condition: a name of `conditions` or a beta in [0, 1]; None is "human" where there are conditions.
            name: what errors call the data.
            device: "cuda" leaves the image on the GPU, as an array for DLPack consumers; needs a GPU backend.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            NotUgicError, VersionError, TruncatedError, CorruptFileError, CodecMismatchError, DesynchronisedError,
            ConditionError, PartError, BundleError, BackendError: see those types.
        """
        return self.decode_views(data, [condition], name, device)[0]

    def decode_views(
        self,
        data: bytes,
        conditions: Sequence[str | float | None],
        name: str = "<bytes>",
        device: str | None = None,
    ) -> list[np.ndarray]:
        """Decodes several views; the entropy decode and all that no condition touches run once."""
        self.timings = {}
        self._check_device(device)
        vectors = [self._condition(c) for c in conditions]
        stream = self._parse(data, name)
        return self._views(self._latents(stream, name), [stream], vectors, device)[0]

    def _parse(self, data: bytes, name: str) -> Bitstream:
        """The bitstream of a file that this codec can decode."""
        self.bundle.graph("g_s")  # a bundle of the encoder refuses before any work
        stream = bitstream.parse(data, name)
        if stream.codec_id != self.codec_id:
            raise CodecMismatchError(
                f"{name}: made by codec {stream.codec_id.hex()}, but this bundle is {self.codec_id.hex()}; "
                "name the right one with --bundle"
            )
        if stream.quality > self.qualities:
            raise CorruptFileError(f"{name}: quality {stream.quality} in a codec of {self.qualities}; get it again")
        return stream

    def _latents(self, stream: Bitstream, name: str) -> np.ndarray:
        """(1, M, H/16, W/16) float32 `y_hat` of a parsed bitstream."""
        z = self._decode_z(stream, name)
        scale_index, mean = self._scales_and_means(z)
        with self._stage("entropy"):
            symbols = self._decode_y(stream, z, scale_index, name)
        return self._reconstruct(symbols, mean)

    def _decode_y(self, stream: Bitstream, z: np.ndarray, scale_index: np.ndarray, name: str) -> np.ndarray:
        """int32 symbols of `y`, of the shape of `scale_index`, checked against the file's checksum."""
        rows = scale_index.ravel()
        if self._coder is None:
            symbols = range_coder.decode(stream.y, rows, self.bundle.y_tables, name).reshape(scale_index.shape)
        else:
            symbols = self._coder.decode(stream.y, rows, name).reshape(scale_index.shape)
        if bitstream.symbol_checksum(z, symbols) != stream.symbol_checksum:
            raise DesynchronisedError(
                f"{name}: intact, but its symbols are not those that were encoded; check this machine with "
                "ugicm.runtime.commands.verify"
            )
        return symbols

    def _decode_z(self, stream: Bitstream, name: str) -> np.ndarray:
        """(1, Nz, H/64, W/64) int32 `z` of a parsed bitstream; of no channels without a hyperprior."""
        m = self.bundle.manifest
        rows, columns = (math.ceil(n / m.stride) for n in (stream.height, stream.width))
        z_shape = (1, m.hyper_channels, rows, columns)
        bounding = [stream.z] if m.hyper_channels else stream.y
        held = sum(map(len, bounding))
        if rows * columns * self._least_bits > 8 * held + 64 * len(bounding):
            raise CorruptFileError(
                f"{name}: {held} bytes cannot hold {stream.width}×{stream.height} pixels; get the file again"
            )
        with self._stage("entropy"):
            z = range_coder.decode([stream.z], self._z_rows(z_shape), self.bundle.z_tables, name).reshape(z_shape)
        if self.bundle.exact and z.size and max(-int(z.min()), int(z.max())) > self.bundle.exact.input_limit:
            raise CorruptFileError(f"{name}: a hyper-latent is out of range; get the file again")
        return z

    def _views(
        self, y_hat: np.ndarray, streams: Sequence[Bitstream], vectors: list[np.ndarray | None], device: str | None
    ) -> list[list[np.ndarray]]:
        """For each file of a `y_hat` of one quality the images, one for each condition's vectors, cropped."""
        found: list[list[np.ndarray]] = [[] for _ in streams]
        for pictures in self._synthesise(y_hat, streams[0].quality, vectors):
            for i, stream in enumerate(streams):
                cropped = pictures[i, : stream.height, : stream.width]
                if tuple(cropped.shape) != (stream.height, stream.width, 3):
                    raise BackendError("g_s gave a picture of another size; the bundle is broken: export it again")
                # What a GPU's graph returns is overwritten by its next run.
                found[i].append(np.asarray(cropped) if device is None else cropped.keep())  # type: ignore[attr-defined]
        return found

    def _reconstruct(self, symbols: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
        """(n, M, H/16, W/16) float32 `y_hat`."""
        if mean is None:
            return symbols.astype(np.float32)
        if not self.bundle.manifest.context:
            return symbols.astype(np.float32) + mean
        return self._run("context", symbols=symbols, mean=mean, anchor=checkerboard(*symbols.shape[2:]))

    def _synthesise(self, y_hat: np.ndarray, quality: int, vectors: list[np.ndarray | None]) -> Iterator[np.ndarray]:
        """(n, H, W, 3) uint8, padded, for each condition's vectors."""
        inverse_gain = self.bundle.inverse_gain[quality - 1 : quality]
        trunk = "g_s_trunk" in self.bundle.manifest.graphs
        if self._tiler is not None and not self._tiler.whole("g_s", *y_hat.shape[2:]):
            conditions = [{} if vector is None else {"condition": vector} for vector in vectors]
            for picture in self._tiler.synthesise(y_hat, inverse_gain, conditions, trunk):
                yield picture[None]
            return
        shared = {"y_hat": y_hat, "inverse_gain": inverse_gain}
        if trunk:
            shared = {"features": self._run("g_s_trunk", **shared)}
        for vector in vectors:
            if vector is not None and self._tiler is None and y_hat.shape[0] > 1:
                vector = np.repeat(vector, y_hat.shape[0], 0)
            yield self._run("g_s", **(shared if vector is None else {**shared, "condition": vector}))

    def _images_at_once(self, height: int, width: int) -> int:
        """How many images of a size, in pixels, take no more memory together than one large one does."""
        most = LARGEST_BATCH if self._tiler is None else self._tiler.pixels
        return max(1, int(most // (height * width)))

    # ---- many

    def decode_many(self, sources: Iterable[Source], **options: Any) -> Iterator[Outcome]:
        """Decodes many files at once, in order; see `ugicm.runtime.many.pipeline.decode_many` for the options."""
        from ugicm.runtime.many.pipeline import decode_many

        return decode_many(self, sources, **options)

    def encode_many(self, sources: Iterable[Source], **options: Any) -> Iterator[Outcome]:
        """Encodes many images at once, in order; see `ugicm.runtime.many.pipeline.encode_many` for the options."""
        from ugicm.runtime.many.pipeline import encode_many

        return encode_many(self, sources, **options)

    def _check_device(self, device: str | None) -> None:
        if device is None:
            return
        if device != "cuda":
            raise BackendError(f"unknown device {device!r}; there is: cuda, or None for this machine's memory")
        if not hasattr(self.backend, "device"):
            raise BackendError(
                f"{self.backend.name} leaves no images on a GPU; open the codec with backend='onnxruntime-cuda', "
                "'tensorrt' or 'tensorrt-rtx'"
            )

    def _condition(self, condition: str | float | None) -> np.ndarray | None:
        """(1, D) float32 vectors of a condition; None for a codec without conditions."""
        if not self.conditions:
            if condition is None:
                return None
            raise ConditionError(
                f"this codec ({self.bundle.manifest.architecture}) was trained for one view; leave --condition out"
            )
        if condition is None:
            condition = self.conditions[0]
        if isinstance(condition, str) and condition in self.bundle.condition_vectors:
            return self.bundle.condition_vectors[condition]
        try:
            beta = float(condition)
        except (TypeError, ValueError):
            beta = math.nan
        for name, named in self.bundle.manifest.conditions.items():
            if beta == named:
                return self.bundle.condition_vectors[name]
        if not 0 <= beta <= 1:
            raise ConditionError(
                f"unknown condition {condition!r}; give {', '.join(self.conditions)} or a number from 0 to 1"
            )
        return np.asarray(self._run("condition", beta=np.asarray([beta], np.float32)))

    # ---- shared

    def _scales_and_means(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        if self._exact is None:
            self._exact = admitted_runner(self.bundle, self.backend)
        with self._stage("exact"):
            if self._tiler is None or self.bundle.exact is None:
                scale_index, mean = self._exact(z)
            else:
                scale_index, mean = self._tiler.exact(z, self._exact, exact_reach(self.bundle.exact))
        if mean is None and "h_s_mean" in self.bundle.manifest.graphs:
            mean = self._run("h_s_mean", z=z.astype(np.float32))
        return scale_index, mean

    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        """The single output of a graph, of those that it fits in tiles where the image is large."""
        if self._tiler is not None and graph in TILED:
            return self._tiler.run(graph, inputs)
        return self._run_whole(graph, inputs)

    def _run_whole(self, graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        vector = inputs.get("condition")
        if vector is None or self._tiler is None:
            loaded = self._loaded(graph)
        else:
            # In the weights a condition costs nothing; as an input it costs nearly half of `g_s` on a CPU.
            loaded = self._view(graph, vector)
            inputs = {k: v for k, v in inputs.items() if k != "condition"}
        with self._stage(STAGES.get(graph, graph)):
            return loaded(inputs)[0]

    def _loaded(self, graph: str) -> Graph:
        if graph not in self._graphs:
            self._graphs[graph] = self.backend.load(self.bundle.graph(graph)[1], graph)
        return self._graphs[graph]

    def _view(self, graph: str, vector: np.ndarray) -> Graph:
        """The graph with a condition's vectors folded in; sessions of those used longest ago are given up."""
        key = vector.tobytes()
        loaded = self._views_of.pop(key, None)
        if loaded is None:
            while len(self._views_of) >= VIEWS_KEPT:
                self._views_of.pop(next(iter(self._views_of)))
            loaded = self.backend.load(self.bundle.view(graph, vector), graph)
        self._views_of[key] = loaded
        return loaded

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + (time.perf_counter() - started) * 1e3

    def _z_rows(self, shape: tuple[int, ...]) -> np.ndarray:
        """The table row of each `z` symbol in scan order: its channel."""
        dtype = np.uint8 if shape[1] <= 256 else np.uint16
        return np.repeat(np.arange(shape[1], dtype=dtype), shape[2] * shape[3])

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image is coded at: multiples of the stride."""
        stride = self.bundle.manifest.stride
        return height + -height % stride, width + -width % stride

    def _pad(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(n, H, W, 3): each repeats its last row and column up to multiples of the stride."""
        size = self._padded(*images[0].shape[:2])
        if len(images) == 1 and images[0].shape[:2] == size:
            return np.ascontiguousarray(images[0])[None]
        padded = np.empty((len(images), *size, 3), np.uint8)
        for image, whole in zip(images, padded, strict=True):
            height, width = image.shape[:2]
            whole[:height, :width] = image
            whole[:height, width:] = image[:, -1:]
            whole[height:] = whole[height - 1]
        return padded

    def _check_quality(self, quality: int) -> None:
        if isinstance(quality, bool) or not isinstance(quality, int | np.integer) or not 1 <= quality <= self.qualities:
            raise QualityError(f"quality {quality!r} is not one of this codec's: 1 to {self.qualities}")


def least_bits(tables: range_coder.Tables) -> float:
    """The fewest bits that one symbol of every row can take together: what bounds a size that a header claims."""
    bits = 0.0
    starts = np.cumsum(tables.lengths) - tables.lengths
    for start, length in zip(starts, tables.lengths, strict=True):
        if length > 1:
            bits -= math.log2(float(tables.frequencies[start : start + length].max()) / range_coder.TOTAL)
    return bits


def checkerboard(height: int, width: int) -> np.ndarray:
    """(1, 1, height, width) float32: 1 at anchors, where row + column is even."""
    return ((np.add.outer(np.arange(height), np.arange(width)) + 1) % 2).astype(np.float32)[None, None]


def _channels(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the channels of an (n, C, h, w) array, each small enough to stay in a processor's cache."""
    n, channels, height, width = shape
    count = max(1, CACHED // max(1, n * height * width))
    for start in range(0, channels, count):
        yield slice(start, start + count)


def _quantise(residual: np.ndarray, coded: np.ndarray | None) -> np.ndarray:
    """int32 symbols of y - mean, which is overwritten; 0 where the row is not coded. None: all are."""
    np.rint(residual, out=residual)
    largest = np.maximum(-residual.min(), residual.max())  # no number where one of them is none
    if not largest < LARGEST_SYMBOL:
        what = "beyond 32 bits" if np.isfinite(largest) else "that are no numbers"
        raise BackendError(f"g_a gave values {what}; the bundle or the backend is broken")
    if coded is not None:
        residual *= coded
    return residual.astype(np.int32)


def check_image(image: np.ndarray) -> tuple[int, int]:
    """The height and width of an image. Raises ImageError: not one that can be encoded."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ImageError(f"an image must be an (H, W, 3) uint8 array; this is {found}")
    height, width = image.shape[:2]
    if height * width > bitstream.MAX_PIXELS:
        raise ImageError(f"an image may have {bitstream.MAX_PIXELS} pixels; this has {width}×{height}")
    if not (1 <= height <= bitstream.MAX_SIDE and 1 <= width <= bitstream.MAX_SIDE):
        raise ImageError(f"an image's sides must be 1 to {bitstream.MAX_SIDE} pixels; this has {width}×{height}")
    return height, width
