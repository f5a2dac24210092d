"""The time of the entropy coder alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ugicm.runtime import range_coder
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.encoder.flow import SYMBOLS_A_SUBSTREAM
from ugicm.runtime.tables import Tables


def _thread_nanoseconds(work: Callable[..., Any], *arguments: Any) -> int:
    started = time.thread_time_ns()
    work(*arguments)
    return time.thread_time_ns() - started


def coder(tables: Tables, latents: Sequence[tuple[np.ndarray, np.ndarray]], repeat: int) -> dict[str, float]:
    """Nanoseconds a symbol of the entropy coder alone, grouping and scattering included: medians of the thread's time.

    Args:
        latents: int32 symbols and rows of each image.
    """
    jobs = []
    for symbols, rows in latents:
        symbols = np.where(tables.lengths[rows] > 0, symbols, 0).astype(np.int32)
        jobs.append(
            (symbols, rows, range_encoder.encode(symbols, rows, tables, -(-symbols.size // SYMBOLS_A_SUBSTREAM)))
        )
    count = sum(symbols.size for symbols, _, _ in jobs)
    encode, decode = [], []
    for _ in range(repeat + 1):
        encode.append(
            sum(_thread_nanoseconds(range_encoder.encode, s, r, tables, len(streams)) for s, r, streams in jobs)
        )
        decode.append(sum(_thread_nanoseconds(range_coder.decode, streams, r, tables) for _, r, streams in jobs))
    return {
        "symbols": count,
        "bits a symbol": sum(len(stream) for _, _, streams in jobs for stream in streams) * 8 / count,
        "encode ns": float(np.median(encode[1:])) / count,
        "decode ns": float(np.median(decode[1:])) / count,
    }
