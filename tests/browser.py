"""Headless Chromium, where the machine has one: a page's DOM once it has loaded, and its picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = f"no headless browser: none of {', '.join(NAMES)} is installed"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    # A page that asks the network for something does not get it; a server of the test on this machine answers.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def chromium() -> str | None:
    """The browser's path, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def visit(
    page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False, picture: Path | None = None
) -> str:
    """Open a page, a file or an address of this machine; the text of its DOM once it has loaded and what listens for
    that has run.

    With `picture` it is a PNG of the window that is made, there, and the text is empty.

    Raises:
        RuntimeError: there is no browser, or it failed.
    """
    browser = chromium()
    if browser is None:
        raise RuntimeError(MISSING)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        wanted = [f"--screenshot={picture}"] if picture else ["--dump-dom"]
        command = [
            browser,
            *_FLAGS,
            *wanted,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            page if isinstance(page, str) else page.resolve().as_uri(),
        ]
        environment = {**os.environ, "HOME": profile}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode or (picture and not picture.exists()):
        raise RuntimeError(f"the browser failed: {done.stderr.strip()[-400:]}")
    return done.stdout
