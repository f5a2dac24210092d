"""Files that a server is handed at once: those of one size go through the networks together, in one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ugicm.runtime import flow
from ugicm.runtime.errors import UgicError
from ugicm.runtime.many.coders import Coders
from ugicm.runtime.many.pipeline import Codec, images_at_once, infer


def decode_together(
    codec: Codec, files: Sequence[bytes], conditions: Sequence[str | float | None], most: int, name: str
) -> list[list[np.ndarray] | Exception]:
    """The views of each file, or the error of its own.

    Args:
        codec: whose networks run in this thread.
        files: the bytes of .ugic files.
        conditions: the views of each, as for `Codec.decode_views`.
        most: files of one size and quality that go through a network together at most, and no more pixels than
            `images_at_once` allows.
        name: what errors call a file.

    Raises:
        ConditionError: which no file could change.
    """
    vectors = [codec.condition(condition) for condition in conditions]
    flows = [flow.decoding(codec.bundle, data, name, vectors, None) for data in files]
    coders = Coders(codec.bundle, 0)
    results: list[Any] = [None] * len(flows)
    answers: dict[int, Any] = dict.fromkeys(range(len(flows)))
    while answers:
        runs: dict[int, flow.Run] = {}
        coming: dict[int, Any] = {}
        for number, value in answers.items():
            try:
                request = flows[number].send(value)
                if isinstance(request, flow.Run):
                    runs[number] = request
                else:
                    coming[number] = coders.answer(request)
            except StopIteration as end:
                results[number] = end.value
            except (UgicError, MemoryError) as error:
                results[number] = error
        for together in parts(runs, lambda run: min(most, images_at_once(codec.networks, *run.size))):
            for number, (value, failure) in zip(together, infer(codec, [runs[n] for n in together]), strict=True):
                if failure is None:
                    coming[number] = value
                else:
                    results[number] = failure
        answers = coming
    return results


def parts(runs: dict[int, flow.Run], most: Callable[[flow.Run], int]) -> list[list[int]]:
    """The numbers of those that run together: of one kind, and a power of two.

    A GPU's backend prepares for each number of images that it meets: of powers of two there are few.
    """
    kinds: dict[object, list[int]] = {}
    for number, run in runs.items():
        kinds.setdefault(run.kind, []).append(number)
    found = []
    for numbers in kinds.values():
        limit = most(runs[numbers[0]])
        while numbers:
            size = 1 << min(len(numbers), limit).bit_length() - 1
            found.append(numbers[:size])
            numbers = numbers[size:]
    return found
