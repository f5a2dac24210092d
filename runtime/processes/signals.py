"""Ctrl-C, SIGTERM and SIGHUP end a command with one line and with status 128 plus the signal's number.

Imports nothing but the standard library's small parts: the first thing that a command does is to be ready for these.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StoppedError(KeyboardInterrupt):
    """One of the signals came. Unwinds as Ctrl-C does, past everything that handles ordinary errors."""

    def __init__(self, number: int) -> None:
        super().__init__(words(number))
        self.number = number


def words(number: int) -> str:
    """The line that a person is told."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


_received: int | None = None  # the signal that came during `unwinding`


def check() -> None:
    """Raises StoppedError where a signal came and its error was lost on the way."""
    if _received is not None:
        raise StoppedError(_received)


def leave_at_once() -> None:
    """From now on each of the signals ends the process without a word, unless it is ignored already.

    A signal that came before is done with.
    """
    global _received
    _received = None
    _install(_leave)


def _leave(number: int, _: Any) -> None:
    os._exit(128 + number)


def _stop(number: int, _: Any) -> None:
    global _received
    _received = number
    raise StoppedError(number)


def _install(handler: Any) -> dict[int, Any]:
    """Handles what is not ignored; returns what was in force. Signals belong to the main thread: elsewhere nothing."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    current = {number: signal.getsignal(number) for number in SIGNALS}
    return {n: signal.signal(n, handler) for n, found in current.items() if found not in (signal.SIG_IGN, None)}


@contextmanager
def unwinding() -> Iterator[None]:
    """While this lasts each of the signals raises StoppedError; one within another changes nothing."""
    global _received
    if signal.getsignal(signal.SIGINT) is _stop or signal.getsignal(signal.SIGTERM) is _stop:
        yield
        return
    _received = None
    hook = sys.unraisablehook

    def lost(unraisable: Any) -> None:  # raised in a destructor, where Python prints it and goes on
        if isinstance(unraisable.exc_value, StoppedError):
            print(f"error: {unraisable.exc_value}", file=sys.stderr, flush=True)
            os._exit(128 + unraisable.exc_value.number)
        hook(unraisable)

    before = _install(_stop)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Signals wait until the block has ended; a process that is started in it begins with SIGINT blocked.

    One that is interrupted while it starts, or while it is told what to do, would print a traceback.
    """
    caught: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda found, _: caught.append(found))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


def leave_to_parent() -> None:
    """In a worker process: the parent decides what Ctrl-C means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
