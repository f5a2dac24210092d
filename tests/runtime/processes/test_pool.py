"""The pool: a dead worker costs what it had and is replaced; nothing hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from tests.runtime.processes.tasks import begin, count, die, fail, gone, nap, perish, square
from ugicm.runtime.errors import BackendError, CorruptFileError, UsageError
from ugicm.runtime.processes.pool import Pool, alone
from ugicm.runtime.processes.worker import DiedError


def test_it_replaces_the_dead_and_goes_on() -> None:
    with Pool(1, begin, 0) as pool:
        _, first = pool.call(count)
        with pytest.raises(DiedError, match="a worker process died"):
            pool.call(die)
        again, second = pool.call(count)
        assert again == 1 and second != first
        os.kill(second, signal.SIGKILL)  # while it has nothing to do
        assert gone(second)
        with pytest.raises(DiedError):
            pool.call(count)
        _, third = pool.call(count)
    assert gone(third) and len(pool) == 0
    assert pool.take_ready() == []


def test_a_start_that_fails_is_an_error_each_time() -> None:
    with Pool(1, fail, 0) as pool:
        for _ in range(2):
            with pytest.raises(CorruptFileError, match="cannot begin"):
                pool.call(count)
        with pytest.raises(CorruptFileError, match="cannot begin"):
            list(pool.each(square, [1]))
    with Pool(2, perish, 0) as pool, pytest.raises(DiedError, match="did not start"):
        list(pool.each(square, [1]))


def test_each_item_is_answered_and_a_death_costs_one() -> None:
    with Pool(2, begin, 0) as pool:
        answers = {answer.item: answer for answer in pool.each(square, range(20))}
        assert set(answers) == set(range(20))
        assert isinstance(answers[7].error, DiedError) and isinstance(answers[13].error, CorruptFileError)
        assert all(answers[i].value == i * i for i in answers if i not in (7, 13))
        assert {answer.value for answer in pool.each(square, [2, 3])} == {4, 9}
        assert list(pool.each(square, [])) == []
        pool.wait()
        assert {answer.value for answer in pool.each(square, [2, 3, 4])} == {4, 9, 16}


def test_each_may_be_left_early() -> None:
    with Pool(2, begin, 0) as pool:
        answers = pool.each(square, iter(range(2, 7)))
        assert next(answers).error is None
        answers.close()  # type: ignore[attr-defined]
        assert pool.call(square, 5) == 25
    assert multiprocessing.active_children() == []


def test_one_that_owes_an_answer_is_not_lent_again() -> None:
    with Pool(1, begin, 0) as pool:
        with pytest.raises(KeyboardInterrupt), pool.lend() as worker:
            worker.send(nap)
            raise KeyboardInterrupt
        assert pool.call(square, 3) == 9


def test_a_replacement_that_cannot_start_is_an_error_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1, begin, 0) as pool:
        with pytest.raises(DiedError):
            pool.call(die)
        with monkeypatch.context() as patch:
            patch.setattr(multiprocessing.get_context("spawn").Process, "start", _no_more)
            with pytest.raises(BackendError, match="no worker process can be started here .*temporarily"):
                pool.call(count)
        assert pool.call(square, 4) == 16


def _no_more(*_: object) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_a_process_of_its_own() -> None:
    mine, theirs = os.getpid(), alone(os.getpid)
    assert theirs != mine and gone(theirs)
    with pytest.raises(DiedError):
        alone(perish, 0)


def test_silly_numbers_are_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="at most 1024"):
        Pool(100_000, begin, 0)
