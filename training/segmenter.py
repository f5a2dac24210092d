"""A network that judges decoded pictures by what it segments in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ugicm.training.config import ConfigError

Run = Callable[[np.ndarray], np.ndarray]


class Segmenter:
    """A segmentation network of a picture in [0, 1] at one size: a map of one probability, or scores of classes.

    One channel is the probability of the foreground. Of more, the largest is the class, and class 0 the background.
    The one that was measured with is MediaPipe's `selfie_segmentation.tflite` (256 x 256, one channel), which segments
    people and whatever else stands in the foreground.

    Args:
        run: an array of the input's shape, float32, to the network's first output, in the input's layout.
        shape: of the input, (1, h, w, 3) or (1, 3, h, w).
        name: what errors call it.

    Raises:
        ConfigError: not such a network.
    """

    LEAST_SHARE = 0.02
    """Of the picture: what is smaller does not count."""

    def __init__(self, run: Run, shape: Sequence[int], name: str) -> None:
        shape, self._run = list(shape), run
        first, last = shape[1:2], shape[-1:]
        if len(shape) != 4 or min(shape[1:]) < 1 or 3 not in (*first, *last):
            raise ConfigError(
                f"{name}: a segmenter has one (1, h, w, 3) or (1, 3, h, w) input; this one has {tuple(shape)}"
            )
        self._first = last != [3]
        self._size = (shape[3], shape[2]) if self._first else (shape[2], shape[1])
        made = self._run(np.zeros((1, *shape[1:]), np.float32)).shape
        if len(made) != 4 or (made[2:] if self._first else made[1:3]) != self._size[::-1]:
            raise ConfigError(f"{name}: a segmenter's first output has a value for each pixel; this one's is {made}")

    def classes(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to the class of each of the network's (h, w) pixels; 0 is the background."""
        resized = Image.fromarray(picture).resize(self._size, Image.Resampling.BILINEAR)
        x = np.asarray(resized, np.float32)[None] / 255
        found = self._run(np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if self._first else x)[0]
        scores = found if self._first else found.transpose(2, 0, 1)
        return (scores[0] > 0.5).astype(np.int64) if len(scores) == 1 else scores.argmax(0)

    def found(self, classes: np.ndarray) -> list[int]:
        """The classes that cover at least `LEAST_SHARE` of (h, w) classes, without the background."""
        numbers, counts = np.unique(classes, return_counts=True)
        return [
            int(n) for n, count in zip(numbers, counts, strict=True) if n and count >= self.LEAST_SHARE * classes.size
        ]

    def agreement(self, original: np.ndarray, picture: np.ndarray) -> float:
        """Mean intersection over union of the classes found in the original: 1 where a picture is segmented alike.

        Args:
            original, picture: (H, W, 3) uint8; something is found in the original.
        """
        a, b = self.classes(original), self.classes(picture)
        return float(np.mean([((a == n) & (b == n)).sum() / ((a == n) | (b == n)).sum() for n in self.found(a)]))


def open_tflite(path: Path, threads: int | None) -> Segmenter:
    """The segmenter of a TFLite file, on so many threads; needs ai-edge-litert. Raises ConfigError."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise ConfigError(f"{path}: a TFLite file needs ai-edge-litert: pip install 'ugicm[judges]'") from None
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
        (given,), made = interpreter.get_input_details(), interpreter.get_output_details()[0]["index"]
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{path}: not a TFLite network of one input: {str(error).splitlines()[0]}") from None

    def run(x: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(made)

    return Segmenter(run, [int(n) for n in given["shape"]], str(path))
