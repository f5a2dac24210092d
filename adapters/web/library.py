"""The files of onnxruntime-web that a site needs: copied from an npm folder, or named at a CDN by their digests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ugicm.runtime.errors import UsageError

PACKAGE = "onnxruntime-web"
MODULE = "ort.wasm.bundle.min.mjs"  # the module and its glue code in one file, which threads load too
WASM = "ort-wasm-simd-threaded.wasm"

VERSION = "1.30.0"
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
DIGESTS = {
    MODULE: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    WASM: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


@dataclass(frozen=True)
class Library:
    """Where a site finds onnxruntime-web.

    Attributes:
        version: of the package.
        base: what addresses begin with: of a CDN, or of a folder of the site.
        digests: file name → "sha384-…", for both files.
        contents: file name → bytes of what is copied into the site; empty for a CDN.
    """

    version: str
    base: str
    digests: dict[str, str]
    contents: dict[str, bytes]

    @property
    def origin(self) -> str:
        """Scheme and host of a CDN; empty for a copy in the site."""
        parts = urlsplit(self.base)
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""

    def entry(self) -> dict[str, object]:
        """What `site.json` says of it."""
        resources = {
            key: {"url": self.base + name, "integrity": self.digests[name]}
            for key, name in (("module", MODULE), ("wasm", WASM))
        }
        return {"version": self.version, **resources}


def at_cdn() -> Library:
    """The version that this release was tried with, at a CDN; browsers refuse other bytes."""
    return Library(VERSION, CDN, DIGESTS, {})


def installed(folder: Path) -> Library:
    """The package in a folder: itself, or a `node_modules` or project folder that holds it.

    Raises:
        UsageError: it is not there, or lacks a file.
    """
    for place in (folder, folder / PACKAGE, folder / "node_modules" / PACKAGE):
        if (place / "dist" / MODULE).is_file():
            return _read(place)
    raise UsageError(
        f"{folder}: holds no {PACKAGE} with dist/{MODULE}; install it with: npm install {PACKAGE}@{VERSION}"
    )


def found() -> Library | None:
    """The package in `node_modules` of the current folder or one above it, or in a folder of NODE_PATH; or None."""
    for place in node_folders():
        if (place / PACKAGE / "dist" / MODULE).is_file():
            return _read(place / PACKAGE)
    return None


def node_folders() -> Iterator[Path]:
    """Where node looks for packages: `node_modules` here and above, then the folders of NODE_PATH."""
    here = Path.cwd()
    yield from (folder / "node_modules" for folder in (here, *here.parents))
    yield from (Path(name) for name in os.environ.get("NODE_PATH", "").split(os.pathsep) if name)


def _read(package: Path) -> Library:
    try:
        contents = {name: (package / "dist" / name).read_bytes() for name in (MODULE, WASM)}
        version = str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{package}: not a whole {PACKAGE} ({error}); install it with: npm install {PACKAGE}@{VERSION}"
        ) from error
    return Library(version, "onnxruntime-web/", {n: _digest(data) for n, data in contents.items()}, contents)


def _digest(data: bytes) -> str:
    """As browsers compare it (W3C, Subresource Integrity)."""
    return f"sha384-{base64.b64encode(hashlib.sha384(data).digest()).decode()}"
