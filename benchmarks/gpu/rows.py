"""The rows of the benchmark, its deadline and its tables."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass
class Row:
    """One line of the tables.

    Attributes:
        section: "exactness", "networks", "stages", "codec" or "throughput".
        subject: what ran.
        size: of the images.
        metric, value, unit: what was measured; None where it could not be.
        note: why there is no value, or what a reader should know.
    """

    section: str
    subject: str
    size: str
    metric: str
    value: float | None
    unit: str
    note: str = ""


class Bench:
    """Rows, a deadline and a clock."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args, self.console = args, console
        self.rows: list[Row] = []
        self._deadline = time.monotonic() + 60 * args.minutes

    def add(self, *row: Any) -> None:
        self.rows.append(Row(*row))
        r = self.rows[-1]
        value = "–" if r.value is None else f"{r.value:,.4g} {r.unit}"
        self.console.print(
            f"{r.section}: {r.subject}, {r.size} {r.metric}: {value} {r.note}", highlight=False, markup=False
        )

    def on_time(self) -> None:
        """Raises TimeoutError after the deadline."""
        if time.monotonic() >= self._deadline:
            raise TimeoutError(f"left out: the {self.args.minutes:g} minutes are over")

    @contextlib.contextmanager
    def attempt(self, section: str, subject: str, size: str = "") -> Iterator[None]:
        """A failure in here becomes a row that says why."""
        try:
            yield
        except Exception as error:  # every library has exceptions of its own, and none may end the benchmark
            reason = str(error).strip().splitlines() or [""]
            self.add(section, subject, size, "", None, "", f"{type(error).__name__}: {reason[0]}"[:300])


def report(bench: Bench) -> None:
    for section in ("exactness", "networks", "codec", "throughput"):
        table = Table("what", "size", "metric", "value", "note", title=section)
        for row in bench.rows:
            if row.section == section:
                value = "–" if row.value is None else f"{row.value:,.4g} {row.unit}"
                table.add_row(*map(escape, (row.subject, row.size, row.metric, value, row.note)))
        bench.console.print(table)
