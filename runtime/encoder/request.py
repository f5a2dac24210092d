"""What an encoding flow asks of the range coder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """Asks the range coder for `count` substreams that hold int32 symbols by their table rows; `table` as of `Read`."""

    table: str
    symbols: np.ndarray
    rows: np.ndarray
    count: int
