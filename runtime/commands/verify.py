"""`ugicm verify [BUNDLE]`: which backends, with which options, are exact here.

Each runs the bundle's golden vectors of the entropy path; only one that reproduces them bit for bit is admitted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ugicm.runtime.admission import graph_runner, reproduces
from ugicm.runtime.backends import Backend, open_backend
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime
from ugicm.runtime.backends.providers import providers
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.commands.cli import Parser, run
from ugicm.runtime.errors import BackendError, BundleError
from ugicm.runtime.exact_reference import reference_runner
from ugicm.runtime.graphs.answers import Answers
from ugicm.runtime.stage_admission import SHARE, deviation


@dataclass(frozen=True)
class Verdict:
    """The outcome of the golden vectors on one backend.

    Attributes:
        backend: its name.
        options: how it was set.
        admitted: whether all came out bit for bit.
        reason: why not, or how far its scale indexes lie from the golden ones.
    """

    backend: str
    options: str
    admitted: bool
    reason: str


def configurations(bundle: Bundle, backend: str | None) -> Iterator[tuple[str, Backend]]:
    """(options, backend) of every ONNX Runtime provider here, or of the one backend that is named.

    Raises:
        BackendError: it is unknown or not usable.
    """
    if backend not in (None, "onnxruntime"):
        yield "", open_backend(backend or "", bundle=bundle)
        return
    for provider in providers():
        for level in LEVELS:
            for threads in (1, 2):
                yield f"{level}, {threads} threads", OnnxRuntime(provider, threads, level)


def verify(bundle: Bundle, backend: str | None = None) -> list[Verdict]:
    """Runs the golden vectors everywhere.

    Raises:
        BundleError, BackendError: see those types.
    """
    if bundle.manifest.schedule is not None:
        return staged(bundle, backend)
    if bundle.exact is None:
        raise BundleError(f"{bundle.path}: has no exact path to verify (its codec needs none)")
    verdicts = []
    if backend is None:
        exact = reproduces(bundle, reference_runner(bundle.exact))
        verdicts.append(Verdict("reference (numpy)", "", exact, "" if exact else "differs from the golden vectors"))
    for options, candidate in configurations(bundle, backend):
        try:
            exact = reproduces(bundle, graph_runner(bundle, candidate))
            reason = "" if exact else "differs from the golden vectors"
        except BackendError as error:
            exact, reason = False, str(error)
        verdicts.append(Verdict(candidate.name, options, exact, reason))
    return verdicts


def staged(bundle: Bundle, backend: str | None) -> list[Verdict]:
    """Runs the golden vectors of the stages everywhere, for a codec with context: its indexes count by tolerance."""
    assert bundle.manifest.schedule is not None
    band, verdicts = bundle.manifest.schedule.band, []
    for options, candidate in configurations(bundle, backend):
        try:
            found = deviation(bundle, cache(partial(Answers(bundle).load, candidate)))
            reason = f"at most {found:.2g} rows from golden, of {SHARE * band:.2g} allowed; band {band:.2g}"
            verdicts.append(Verdict(candidate.name, options, found <= SHARE * band, reason))
        except BackendError as error:
            verdicts.append(Verdict(candidate.name, options, False, str(error)))
    return verdicts


def _work(args: argparse.Namespace) -> int:
    bundle = Bundle.open(args.bundle or DEFAULT)
    verdicts = verify(bundle, args.backend)
    if args.json:
        print(json.dumps([vars(v) for v in verdicts], indent=1))
    else:
        table = Table("backend", "options", "exact path", "why")
        for v in verdicts:
            table.add_row(v.backend, v.options, "admitted" if v.admitted else "refused", v.reason)
        console = Console()
        console.print(f"codec {bundle.manifest.codec_id}, {bundle.path}")
        console.print(table)
        admitted = sum(v.admitted for v in verdicts)
        instead = "the exact path to the reference" if bundle.exact else "no way to decode there"
        console.print(f"{admitted} of {len(verdicts)} admitted; a refused backend leaves {instead}")
    return 0 if all(v.admitted for v in verdicts) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="ugicm verify", description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="default: the shipped one")
    parser.add_argument("--backend", help="only this one, e.g. onnxruntime")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    return run(parser, _work, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
