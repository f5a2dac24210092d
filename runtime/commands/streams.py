"""Standard input and output as files of a command line, where `-` names them."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ugicm.runtime.errors import OutputError, UsageError

STANDARD = Path("-")


def source(text: str) -> Path:
    """The input that an argument names: `-` is standard input, `./-` a file of that name."""
    return Path.cwd() / "-" if text != "-" and Path(text) == STANDARD else Path(text)


def read_standard() -> bytes:
    """All of standard input. Raises UsageError where it is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("-: standard input is a terminal; give a file, or pipe one in")
    return sys.stdin.buffer.read()


def check_standard_output(inputs: int, outputs: int) -> None:
    """Raises UsageError unless standard output can take the one result."""
    if inputs != 1 or outputs != 1:
        raise UsageError(f"-: standard output holds one result, and there are {max(inputs, outputs)}; give -o a folder")
    if sys.stdout.isatty():
        raise UsageError("-: standard output is a terminal; redirect it to a file")


def write_standard(data: bytes) -> None:
    """Write a result to standard output. Raises OutputError where it does not take it."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    if isinstance(raw, _Lasting) and (reason := raw.words()):
        raise OutputError(reason)


class _Lasting(io.RawIOBase):
    """A descriptor that goes on taking bytes when the system takes no more of them.

    Attributes:
        fault: the first refusal.
    """

    def __init__(self, number: int, fault: OSError | None = None) -> None:
        self._number = number
        self._closed_before = fault
        self._told = False
        self.fault: OSError | None = None

    def words(self) -> str:
        """The fault in words, once; nothing where there is none."""
        fault, self._told = None if self._told else self.fault, self.fault is not None
        if fault is None:
            return ""
        return f"-: standard output cannot be written: {fault.strerror or fault}; redirect it elsewhere"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def write(self, data: Any) -> int:
        if self.fault is None:
            try:
                if self._closed_before is not None:
                    raise self._closed_before
                return os.write(self._number, data)
            except OSError as error:
                self.fault = error
        return len(memoryview(data).cast("B"))


@contextmanager
def lasting() -> Iterator[Callable[[], str]]:
    """While this lasts work is done and files are written, whatever becomes of the lines that tell of it.

    Where this process began with one of the standard streams closed, the null device takes its place: else the next
    file that is opened would, and lines would go there.

    Yields:
        What to ask in the end: why standard output took less than was written, or nothing.
    """
    closed = [_opened(number) for number in (0, 1, 2)]
    before = sys.stdout, sys.stderr
    raw: _Lasting | None = None
    if sys.stdout is sys.__stdout__ and not (sys.stdout and sys.stdout.isatty()):
        raw = _Lasting(1, OSError(errno.EBADF, "it is closed") if closed[1] else None)
        sys.stdout = _text(raw, before[0])
    if sys.stderr is sys.__stderr__ and not (sys.stderr and sys.stderr.isatty()):
        sys.stderr = _text(_Lasting(2), before[1])

    def lost() -> str:
        sys.stdout.flush()
        return "" if raw is None else raw.words()

    try:
        yield lost
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


def _opened(number: int) -> bool:
    """Whether a descriptor was closed; now it is not."""
    try:
        os.fstat(number)
        return False
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        return True


def _text(raw: _Lasting, before: Any) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=raw.fileno() == 2)
