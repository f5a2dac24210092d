"""constriction's range coder.

It takes float probabilities and gives each of a row's n entries 1 plus its share of 2**24 - n, cumulated in float64 and
floored. Handed the values `frequency - 1`, which are integers that sum to 2**24 - n, it scales by exactly 1, every
partial sum is exact, and it lands on the integer frequencies (tests/reference proves it).
"""

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

RangeDecoder, RangeEncoder = constriction.stream.queue.RangeDecoder, constriction.stream.queue.RangeEncoder
_SHORT, _LIKELY = 18, (1 << 24) * 2 // 3  # rows that decode faster from the left: at most so long, an entry so frequent


def encoder_model(frequencies: NDArray[np.uint32], lazy: bool = False) -> Any:
    """The model of a row of two or more entries."""
    return constriction.stream.model.Categorical(frequencies.astype(np.float64) - 1, perfect=False, lazy=lazy)


def decoder_model(frequencies: NDArray[np.uint32]) -> Any:
    """The same frequencies searched from the left, where the row is short and one entry likely; else None.

    Halving the interval takes 3 ns a step whatever the data; a processor predicts a search from the left (docs/cpu.md).
    """
    if frequencies.size > _SHORT or int(frequencies.max()) < _LIKELY:
        return None
    return encoder_model(frequencies, lazy=True)
