"""The codec: image to bitstream and back, with one bundle on one backend; it answers what flows (`flow`) ask."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ugicm.runtime import flow
from ugicm.runtime.backends import Backend, open_backend
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.errors import UsageError
from ugicm.runtime.graphs.run import Networks

if TYPE_CHECKING:
    from ugicm.runtime.many.pipeline import Outcome
    from ugicm.runtime.many.sources import Source
    from ugicm.runtime.processes.parallel_coder import ParallelCoder


class Codec:
    """Encodes and decodes with one bundle. Threads may share one; pickled, it is opened again there, without workers.

    Attributes:
        bundle: the verified bundle.
        backend: where its graphs run.
        networks: its graphs, loaded.
        entropy_coder: the processes that code one large image's symbols together with this one; None without.
    """

    def __init__(self, bundle: Bundle, backend: Backend, entropy_coder: ParallelCoder | None = None) -> None:
        self.bundle, self.backend, self.entropy_coder = bundle, backend, entropy_coder
        self.networks = Networks(bundle, backend)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.bundle, self.backend)

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
            backend, threads, precision: see `ugicm.runtime.backends.open_backend`.
            entropy_workers: processes that code the symbols of one large image together with this one; no more are
                started than there are other CPUs. A script that asks for them opens codecs below
                `if __name__ == "__main__":`. They end with `close` or with this process.

        Raises BundleError, VersionError, BackendError, UsageError: see those types.
        """
        if entropy_workers < 0:
            raise UsageError(f"{entropy_workers} entropy workers; give 0 or more")
        bundle = Bundle.open(DEFAULT if path is None else path)
        coder = None
        if entropy_workers:  # they start while the backend loads
            from ugicm.runtime.processes.parallel_coder import ParallelCoder

            coder = ParallelCoder(bundle.y_tables, entropy_workers)
        return cls(bundle, open_backend(backend, threads, bundle, precision), coder)

    def close(self) -> None:
        """Ends the entropy workers, if there are any; the codec goes on without."""
        if self.entropy_coder is not None:
            self.entropy_coder.close()

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

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by stage of this thread's last call: for encode "g_a", "h_a", "exact", "context", "entropy",
        for decode "entropy", "exact", "context", "g_s"."""
        return self.networks.timings

    def encode(self, image: np.ndarray, quality: float | None = None, effort: int = 0, **wish: Any) -> bytes:
        """Compresses an image to the bytes of a .ugic file.

        Args:
            image: (H, W, 3) uint8 RGB, each side 1 to 65535.
            quality: 1 (smallest) to `qualities`, and between; None is 4, or the best of a codec with fewer.
            effort: 0, or 1, 2 or 3 for 5, 10 or 200 steps of a search for better latents, which any decoder reads.
            wish: in place of a quality `target_bpp`, bits a pixel, or `target_psnr`, dB, to come near to, or
                `max_bytes`, not to be exceeded. With an effort `tune`, "psnr", "ms-ssim" or "machine", says which
                distortion counts, and `watch(step, steps)` hears of each step.

        Raises:
            ImageError: not such an array.
            QualityError: out of range, or a target that no quality meets.
            PartError: a bundle of the decoder only.
            UsageError: no such effort or target, or none that this codec or backend can take.
        """
        from ugicm.runtime.encoder import entry

        return entry.encode(self.networks, self.answer, image, quality, effort, **wish)

    def decode(
        self, data: bytes, condition: str | float | None = None, name: str = "<bytes>", device: str | None = None
    ) -> np.ndarray:
        """Decodes one view of the bytes of a .ugic file to (H, W, 3) uint8 RGB.

        Args:
            condition: a name of `conditions` or a beta in [0, 1]; None is "human" where there are conditions.
            name: what errors call the data.
            device: "cuda" leaves the image on the GPU, as an array for DLPack consumers; needs a GPU backend.

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
        if device is not None:
            from ugicm.runtime.backends.gpu.device import check_device

            check_device(self.backend, device)
        return self.answer(flow.decoding(self.bundle, data, name, list(map(self.condition, conditions)), device))

    def decode_many(self, sources: Iterable[Source], **options: Any) -> Iterator[Outcome]:
        """Decodes many files at once, in order; see `ugicm.runtime.many.pipeline.decode_many` for the options."""
        from ugicm.runtime.many.pipeline import decode_many

        return decode_many(self, sources, **options)

    def encode_many(self, sources: Iterable[Source], **options: Any) -> Iterator[Outcome]:
        """Encodes many images at once, in order; see `ugicm.runtime.many.pipeline.encode_many` for the options."""
        from ugicm.runtime.many.pipeline import encode_many

        return encode_many(self, sources, **options)

    def condition(self, asked: str | float | None) -> np.ndarray | None:
        """See `Networks.condition`."""
        return self.networks.condition(asked)

    def answer(self, asking: flow.Flow[Any]) -> Any:
        """The result of a flow. Time that no network took counts as the range coder's."""
        times = self.timings
        times.clear()
        started, running = time.perf_counter(), 0.0

        def answer(request: flow.Request) -> Any:
            nonlocal running
            if not isinstance(request, flow.Run):
                if request.table == "z":
                    return request.coded(self.bundle.z_tables)
                return request.coded(self.bundle.y_tables, self.entropy_coder)
            before = time.perf_counter()
            result = request.alone(self.networks)
            running += time.perf_counter() - before
            return result

        result = flow.drive(asking, answer)
        times["entropy"] = (time.perf_counter() - started - running) * 1e3
        return result
