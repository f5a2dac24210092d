"""`ugicm VERB …`, and what all verbs share: an error is one line and exit status 2."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ugicm import __version__
from ugicm.runtime.backends import NAMES
from ugicm.runtime.commands import streams
from ugicm.runtime.errors import UgicError, UsageError
from ugicm.runtime.processes import cpus, signals

# Verbs are modules with a `main(arguments) -> exit status`, of this folder or `_ELSEWHERE`, imported when called.
VERBS = {
    "encode": "compress images to .ugic files",
    "decode": "turn .ugic files back into images, for a person or for a machine",
    "info": "show what a bundle or a .ugic file holds, without decoding it",
    "verify": "check that the entropy path of a bundle is exact on this machine",
    "conformance": "decode published streams with every coder, backend and setting of this machine",
    "env": "show what is installed here and which backends really work, for bug reports",
    "benchmark": "measure every stage on this machine: latency, throughput, memory",
    "report": "show what the codec does to images, as one page for the browser",
    "demo": "compress one photograph, compare it with JPEG, and show both views",
    "web": "write a page that decodes .ugic files in the browser",
    "triton": "write a model repository for NVIDIA's Triton Inference Server",
    "export": "turn a checkpoint into a bundle (needs the extra export)",
    "train": "train a codec (needs the extra train)",
}
_ELSEWHERE = {
    "web": "ugicm.adapters.web.command",
    "triton": "ugicm.adapters.triton.command",
    "export": "ugicm.export.to_onnx",
    "train": "ugicm.training.train",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors: one line like all others."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As the library's; a NUL, which no name can hold, is refused."""
        given = sys.argv[1:] if args is None else args
        if found := [word for word in given if "\0" in word]:
            raise UsageError(f"{printable(found[0])}: holds a NUL character, which no name can; leave it out")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ugicm VERB …`. Returns the exit status: 0, or 2 where an input or argument was at fault."""
    return _guarded(lambda: _dispatch(sys.argv[1:] if arguments is None else list(arguments)))


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parse arguments and do a verb's work. A UgicError is printed.

    Warnings of the logger `ugicm` are printed as `warning: …`; those that libraries raise are not shown.

    Returns:
        The exit status: that of `work`, or 2 after an error.
    """

    def parse_and_work() -> int:
        with _warnings_printed():
            return work(parser.parse_args(arguments))

    return _guarded(parse_and_work)


def for_each(paths: Sequence[Path], work: Callable[[int, Path], None]) -> int:
    """Do `work(index, path)` for each path. An error is printed with its file, and the next is done.

    Returns:
        0, or 2 if any failed.
    """
    status = 0
    for index, path in enumerate(paths):
        try:
            work(index, path)
        except (UgicError, MemoryError, OSError) as error:
            signals.check()
            if isinstance(error, OSError):  # a source that was moved away in the middle, for one
                reason = f"{path}: cannot be worked on: {error.strerror or error}; try again"
            else:
                reason = str(error) if isinstance(error, UgicError) else "not enough memory; use a smaller image"
            report(reason if str(path) in reason else f"{path}: {reason}")
            status = 2
    return status


def read_bytes(path: Path) -> bytes:
    """The bytes of a .ugic file (`-`: standard input); of a file that is none, its first four. Raises UsageError."""
    if path == streams.STANDARD:
        return streams.read_standard()
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise UsageError(f"{path}: is not a regular file; name the .ugic files themselves")
        with path.open("rb") as handle:
            start = handle.read(4)
            return start + handle.read() if start == b"UGIC" else start
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """Where the networks run."""
    group = parser.add_argument_group("where the networks run")
    group.add_argument(
        "--backend", choices=NAMES, default=NAMES[0], metavar="NAME", help=f"{', '.join(NAMES)}; default: {NAMES[0]}"
    )
    group.add_argument("--precision", metavar="P", help="on a GPU: fp32, fp16 or int8, as export.to_tensorrt made it")


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    """How many CPU threads run an operator of the networks."""
    parser.add_argument(
        "--threads",
        type=_threads,
        metavar="N",
        help="CPU threads of an operator; default: one for each CPU that this process may use",
    )


def _threads(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number; give 1 to {cpus.most_threads()}") from None
    try:
        return cpus.threads(number) or number
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_entropy_option(parser: argparse.ArgumentParser) -> None:
    """How many processes code the symbols of one image."""
    parser.add_argument(
        "--entropy-workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that help this one to code the symbols of a large image; they pay where many large files are "
        "given, or a GPU runs the networks; default: 0",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """How outputs are named, and their times."""
    parser.add_argument(
        "--suffix",
        choices=("replace", "add"),
        default="replace",
        help="in a folder photo.jpg gives photo with another suffix, or photo.jpg with one more; default: replace",
    )
    parser.add_argument("--preserve", action="store_true", help="give outputs the times of their inputs")


def printable(text: object) -> str:
    """`text` on one line of any terminal: control characters and bytes that are no UTF-8 are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def report(error: object) -> None:
    """Print `error: …` to the error stream, on one line."""
    print(f"error: {printable(error)}", file=sys.stderr)


def _guarded(work: Callable[[], int]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack the characters of a file name
    with signals.unwinding(), streams.lasting() as lost:
        try:
            status = _reported(work)
        except SystemExit:  # after --help
            if not lost():
                raise
            status = 0
        if reason := lost():
            report(reason)
        return status or 2 * bool(reason)


def _reported(work: Callable[[], int]) -> int:
    """The status of work; its error is printed."""
    try:
        return _finished(work)
    except KeyboardInterrupt as error:
        signals.leave_at_once()
        number = error.number if isinstance(error, signals.StoppedError) else signal.SIGINT
        report(signals.words(number))
        return 128 + number
    except UgicError as error:
        report(error)
    except OSError as error:  # a place that changed or vanished between two looks at it
        place = f"{error.filename}: " if error.filename else ""
        report(f"{place}cannot be used: {error.strerror or error}; give another place")
    return 2


def _finished(work: Callable[[], int]) -> int:
    """The status of work that no signal ended, also not where a library made another error of the signal's."""
    try:
        status = work()
    except BaseException:
        signals.check()
        raise
    signals.check()
    return status


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version", "version"):
        print(f"ugicm {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(VERBS)}"
        raise UsageError(f"there is no verb '{verb}': {hint}")
    if verb in _ELSEWHERE:
        module = elsewhere(_ELSEWHERE[verb], f"ugicm {verb}", verb)
    else:
        module = importlib.import_module(f"ugicm.runtime.commands.{verb}")
    return int(module.main(arguments[1:]))


def elsewhere(name: str, who: str, extra: str) -> Any:
    """A module outside of the runtime, imported. Raises UsageError: `who` needs an `extra` that is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ugicm"):
            raise
        raise UsageError(f"{who} needs {error.name}; install it with: pip install 'ugicm[{extra}]'") from error


class _Printer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {printable(record.getMessage())}", file=sys.stderr)


@contextmanager
def _warnings_printed() -> Iterator[None]:
    logger = logging.getLogger("ugicm")
    handler = _Printer()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {line}" for verb, line in VERBS.items())
    return (
        "usage: ugicm VERB …\n\n"
        "Learned image compression: one file, a view for people and one for machines.\n\n"
        f"{verbs}\n\nugicm VERB --help tells more of each; python -m ugicm VERB does the same.\n"
        "ugicm --version tells the release."
    )


if __name__ == "__main__":
    sys.exit(main())
