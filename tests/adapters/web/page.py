"""A site in headless Chromium: what its modules decode, and what its page shows."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.browser import visit
from ugicm.adapters.web.serve import ADDRESS, ISOLATION, Handler

HERE = Path(__file__).parent
PATIENCE = 100  # seconds


@dataclass
class Visit:
    """What a page told: `answer` is what it posted, and `told` is set with it."""

    told: threading.Event = field(default_factory=threading.Event)
    answer: Any = None


class _Waiting(Handler):
    """A site's handler that keeps `wait` waiting until `answer` has come: so long a page has not loaded."""

    def __init__(self, *args: Any, seen: Visit, **options: Any) -> None:
        self._seen = seen
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        if self.path == "/wait":
            self._seen.told.wait(PATIENCE)
            self.send_error(404)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self._seen.answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self._seen.told.set()


@contextmanager
def serving(folder: Path, headers: dict[str, str]) -> Iterator[tuple[str, Visit]]:
    """A server of a folder: its address, and what pages tell it."""
    seen = Visit()
    handler = partial(_Waiting, directory=str(folder), headers=headers, seen=seen)
    with ThreadingHTTPServer((ADDRESS, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{ADDRESS}:{server.server_address[1]}", seen
        finally:
            seen.told.set()
            server.shutdown()
            thread.join()


def decode(
    site: Path, files: Mapping[str, bytes], betas: Sequence[float | None], threads: int, isolated: bool, times: int = 1
) -> dict[str, Any]:
    """What the modules of a site make of files, in Chromium; see harness.js."""
    (site / "jobs").mkdir(exist_ok=True)
    for name, data in files.items():
        (site / "jobs" / name).write_bytes(data)
    jobs = [{"name": name, "betas": list(betas), "times": times} for name in files]
    (site / "jobs.json").write_text(json.dumps({"threads": threads, "jobs": jobs}))
    for name in ("harness.html", "harness.js"):
        shutil.copy(HERE / name, site / name)
    with serving(site, ISOLATION if isolated else {}) as (address, seen):
        visit(f"{address}/harness.html")
        assert seen.answer is not None, "the page told nothing"
        answer: dict[str, Any] = seen.answer
        return answer


def watched(site: Path, query: str, isolated: bool = True, **window: Any) -> dict[str, Any]:
    """What the page of a site shows once it has opened what `query` names, or cannot; see watch.js.

    Args:
        query: "?file=…" or empty.
        window: as for `tests.browser.visit`, a picture for example.
    """
    page = (site / "index.html").read_text(encoding="utf-8")
    if "watch.js" not in page:
        watch = '<script type="module" src="watch.js"></script><img src="wait" alt="" hidden>'
        (site / "index.html").write_text(page.replace("</body>", f"{watch}</body>"), encoding="utf-8")
        shutil.copy(HERE / "watch.js", site / "watch.js")
    with serving(site, ISOLATION if isolated else {}) as (address, seen):
        visit(f"{address}/{query}", **window)
        assert seen.answer is not None, "the page told nothing"
        answer: dict[str, Any] = seen.answer
        return answer
