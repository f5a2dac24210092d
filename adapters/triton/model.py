"""The models that Triton's python backend runs: a request is a file, an answer is its views, or the bytes of a file.

`ugicm triton` writes a `model.py` beside a bundle, which takes a class from here. A fault of a request is its own,
INVALID_ARGUMENT with the runtime's line; others of the same batch are answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ugicm.runtime import bitstream
from ugicm.runtime.codec import Codec
from ugicm.runtime.commands.decode import parse_condition
from ugicm.runtime.commands.encode import Keeping, encode_picture
from ugicm.runtime.errors import BackendError, ImageError, UgicError
from ugicm.runtime.files.picture import open_header
from ugicm.runtime.many.together import decode_together
from ugicm.runtime.processes.memory import keep_freed

BUNDLE = "bundle"


class _Model:
    """What both models share; Triton calls `initialize` once and `execute` with the requests of a batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the codec beside the model. Triton shows an error that this raises."""
        import triton_python_backend_utils

        keep_freed()
        self.triton = triton_python_backend_utils
        said = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        self.most_pixels = int(said["pixels"])
        self.batch = int(said["batch"])
        self.codec = Codec.from_bundle(
            Path(args["model_repository"]) / args["model_version"] / BUNDLE,
            backend=said["backend"],
            precision=said["precision"] or None,
            threads=int(said["threads"]),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request, in order."""
        return [self.respond(self.answer, request) for request in requests]

    def answer(self, request: Any) -> Any:
        """The output tensor of a request. Raises UgicError."""
        raise NotImplementedError

    def respond(self, work: Callable[[Any], Any], request: Any) -> Any:
        """The response of a request: what `work` returns, or its error."""
        try:
            return self.triton.InferenceResponse([work(request)])
        except MemoryError:
            reason, code = "not enough memory for it; use a smaller image", "UNAVAILABLE"
        except BackendError as error:
            reason, code = str(error), "INTERNAL"
        except UgicError as error:
            reason, code = str(error), "INVALID_ARG"
        except Exception as error:  # the model has to go on
            reason, code = f"{type(error).__name__}: {error}".splitlines()[0], "INTERNAL"
        kind = getattr(self.triton.TritonError, code)
        return self.triton.InferenceResponse([], self.triton.TritonError(reason, kind))

    def strings(self, request: Any, name: str) -> list[bytes]:
        """The byte strings of an input, none where it is left out."""
        tensor = self.triton.get_input_tensor_by_name(request, name)
        return [] if tensor is None else [bytes(item) for item in tensor.as_numpy().ravel()]

    def file(self, request: Any, name: str) -> bytes:
        """The one file of a request. Raises ImageError."""
        files = self.strings(request, name)
        if len(files) != 1:
            raise ImageError(f"{name}: {len(files)} files in a request; send one, shape [1, 1]")
        return files[0]

    def check_pixels(self, width: int, height: int, views: int = 1) -> None:
        """Raises ImageError: the pictures of a request are larger than this server takes."""
        if width * height * views > self.most_pixels:
            size = f"{width}x{height} pixels" + (f" in {views} views" if views > 1 else "")
            raise ImageError(f"{size}; this server takes {self.most_pixels}: resize or split it")


class Decoder(_Model):
    """UGIC, the bytes of a file, [1, 1]; CONDITION, optional names or numbers, [1, V]: IMAGE uint8 [1, V, H, W, 3]."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request, in order; files of one size and the same views run together."""
        if len(requests) == 1:
            return super().execute(requests)
        found: list[Any] = [None] * len(requests)
        alike: dict[tuple[str | float | None, ...], dict[int, bytes]] = {}
        for number, request in enumerate(requests):
            try:
                data, conditions = self.asked(request)
                alike.setdefault(conditions, {})[number] = data
            except Exception as error:  # `respond` says which
                found[number] = error
        for conditions, files in alike.items():
            try:
                results: list[Any] = decode_together(self.codec, list(files.values()), conditions, self.batch, "UGIC")
            except UgicError as error:
                results = [error] * len(files)
            for number, result in zip(files, results, strict=True):
                found[number] = result

        def answer(result: Any) -> Any:
            if isinstance(result, Exception):
                raise result
            return self.image(result)

        return [self.respond(answer, result) for result in found]

    def answer(self, request: Any) -> Any:
        data, conditions = self.asked(request)
        return self.image(self.codec.decode_views(data, conditions, "UGIC"))

    def asked(self, request: Any) -> tuple[bytes, tuple[str | float | None, ...]]:
        """(the file, its views). Raises UgicError."""
        data = self.file(request, "UGIC")
        header = bitstream.read_header(data[: bitstream.HEADER_BYTES], "UGIC")
        asked = [text.decode("utf-8", "replace") for text in self.strings(request, "CONDITION")]
        conditions = [condition for text in asked for condition in parse_condition(text)] or [None]
        self.check_pixels(header.width, header.height, len(conditions))
        return data, tuple(conditions)

    def image(self, views: Sequence[np.ndarray]) -> Any:
        """The output tensor of views."""
        return self.triton.Tensor("IMAGE", np.stack(views)[None])


class Encoder(_Model):
    """PICTURE, the bytes of a file, [1, 1]; QUALITY, optional int32, [1, 1]: UGIC, the bytes of a file, [1, 1]."""

    def answer(self, request: Any) -> Any:
        data = self.file(request, "PICTURE")
        self.check_pixels(*_size(data))
        tensor = self.triton.get_input_tensor_by_name(request, "QUALITY")
        quality = None if tensor is None else int(tensor.as_numpy().ravel()[0])
        found = encode_picture(self.codec, data, quality, Keeping(), "PICTURE")
        return self.triton.Tensor("UGIC", np.array([[found.data]], dtype=np.object_))


def _size(data: bytes) -> tuple[int, int]:
    """Of a picture file, as its header says; (0, 0) where it says nothing, which reading it will say better."""
    import io

    try:
        return open_header(io.BytesIO(data)).size
    except Exception:  # Pillow raises nearly every built-in type on damaged data
        return 0, 0
