"""Standard input and output as files of a command line, where `-` names them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in its buffer
        raise OutputError(
            f"-: standard output cannot be written: {error.strerror or error}; redirect it elsewhere"
        ) from error
