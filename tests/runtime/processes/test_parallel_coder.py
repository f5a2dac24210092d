"""Several processes write the bytes and read the symbols that one does, whatever becomes of them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugicm import Codec
from ugicm.runtime import range_coder
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.errors import CorruptFileError, UsageError
from ugicm.runtime.processes import parallel_coder
from ugicm.runtime.processes.parallel_coder import LEAST_SUBSTREAMS, ParallelCoder
from ugicm.runtime.tables import Tables


@pytest.fixture(scope="module")
def tables(codec: Codec) -> Tables:
    return codec.bundle.y_tables


@pytest.fixture(scope="module")
def several_cpus() -> Iterator[None]:
    """The number of processes does not depend on the machine that tests run on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel_coder, "processors", lambda: 3)
        yield


@pytest.fixture(scope="module")
def coder(tables: Tables, several_cpus: None) -> Iterator[ParallelCoder]:
    coder = ParallelCoder(tables, 2)
    coder.wait()
    yield coder
    coder.close()


def draw(tables: Tables, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols near and far from their rows' centres; rows in runs, skipped ones among them."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.integers(0, tables.rows, -(-size // 7) + 1), 7)[:size].astype(np.uint8)
    symbols = np.rint(rng.standard_cauchy(size) * rows / 8).clip(-1e6, 1e6).astype(np.int32)
    symbols[tables.lengths[rows] == 0] = 0
    return symbols, rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3000), st.integers(LEAST_SUBSTREAMS, 150), st.integers(0, 2**32))
def test_the_same_bytes_and_symbols(coder: ParallelCoder, tables: Tables, size: int, count: int, seed: int) -> None:
    symbols, rows = draw(tables, size, seed)
    streams = range_encoder.encode(symbols, rows, tables, count)
    assert coder.encode(symbols, rows, count) == streams
    assert np.array_equal(coder.decode(streams, rows), symbols)


def test_workers_do_their_shares(coder: ParallelCoder, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols, rows = draw(tables, 60_000, 1)
    streams = range_encoder.encode(symbols, rows, tables, 12)
    here: list[str] = []
    real = range_coder.decode_substream

    def counted(stream: bytes, rows: np.ndarray, tables: Tables, out: np.ndarray, where: str) -> None:
        here.append(where)
        real(stream, rows, tables, out, where)

    monkeypatch.setattr(range_coder, "decode_substream", counted)
    coder.decode(streams, rows)
    assert len(here) == 4
    here.clear()
    few = LEAST_SUBSTREAMS - 1  # not worth it
    assert np.array_equal(coder.decode(range_encoder.encode(symbols, rows, tables, few), rows), symbols)
    assert len(here) == few


@pytest.mark.parametrize("number", [0, 5, 11])
def test_a_damaged_substream_is_the_error_that_one_process_raises(
    coder: ParallelCoder, tables: Tables, number: int
) -> None:
    symbols, rows = draw(tables, 60_000, 2)
    streams = range_encoder.encode(symbols, rows, tables, 12)
    damaged = list(streams)
    damaged[number] = damaged[number][:-4]
    if number == 5:
        damaged[9] = b""  # the first is the one that is named
    with pytest.raises(CorruptFileError) as expected:
        range_coder.decode(damaged, rows, tables, "a.ugic")
    with pytest.raises(CorruptFileError) as found:
        coder.decode(damaged, rows, "a.ugic")
    assert str(found.value) == str(expected.value)
    assert np.array_equal(coder.decode(streams, rows), symbols)


def test_what_a_dead_worker_was_asked_is_done_here(
    coder: ParallelCoder, tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    symbols, rows = draw(tables, 30_000, 3)
    streams = range_encoder.encode(symbols, rows, tables, 9)
    for code in (lambda: coder.decode(streams, rows).tolist(), lambda: coder.encode(symbols, rows, 9)):
        coder.wait()
        expected = code()
        process = multiprocessing.active_children()[0]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with caplog.at_level(logging.WARNING, "ugicm"):
            assert code() == expected
        assert [r.getMessage() for r in caplog.records] == [
            "a worker process of the range coder died; another takes its place"
        ]
        caplog.clear()
        coder.wait()
        assert code() == expected
        assert not caplog.records


def test_an_interrupt_leaves_no_answer_for_the_next(
    coder: ParallelCoder, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder.wait()
    symbols, rows = draw(tables, 30_000, 4)
    streams = range_encoder.encode(symbols, rows, tables, 9)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(range_coder, "decode_substream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            coder.decode(streams, rows)
    coder.wait()
    assert np.array_equal(coder.decode(streams, rows), symbols)


def test_threads_may_share_one(coder: ParallelCoder, tables: Tables) -> None:
    coder.wait()
    symbols, rows = draw(tables, 60_000, 5)
    streams = range_encoder.encode(symbols, rows, tables, 8)
    right: list[bool] = []

    def decode() -> None:
        right.extend(np.array_equal(coder.decode(streams, rows), symbols) for _ in range(5))

    threads = [threading.Thread(target=decode) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 15


def test_a_machine_of_one_cpu_starts_none(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_coder, "processors", lambda: 1)
    coder = ParallelCoder(tables, 4)
    symbols, rows = draw(tables, 3000, 6)
    assert len(coder) == 0
    assert np.array_equal(coder.decode(coder.encode(symbols, rows, 8), rows), symbols)


def test_a_codec_with_workers_writes_and_reads_the_same(
    codec: Codec, several_cpus: None, photograph: np.ndarray
) -> None:
    picture = np.tile(photograph, (5, 6, 1))  # enough for five substreams
    expected = codec.encode(picture, 3)
    other = Codec.from_bundle(threads=1, entropy_workers=1)
    try:
        assert other.entropy_coder is not None
        other.entropy_coder.wait()
        assert other.encode(picture, 3) == expected
        assert np.array_equal(other.decode(expected), codec.decode(expected))
    finally:
        other.close()
    assert np.array_equal(other.decode(expected), codec.decode(expected))
    with pytest.raises(UsageError, match="-1 entropy workers"):
        Codec.from_bundle(entropy_workers=-1)
