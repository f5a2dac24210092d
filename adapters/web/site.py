"""Writes the page: static files, the decoder's half of a bundle, and onnxruntime-web or its address."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from ugicm.adapters.web.library import Library
from ugicm.runtime.bitstream import read_header
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import CodecMismatchError, PartError, UsageError
from ugicm.runtime.files.output import make_folder, write_atomically
from ugicm.runtime.manifest import MANIFEST

STATIC = Path(__file__).parent / "static"
SITE, PAGE = "site.json", "index.html"
UNUSED = ("g_a", "g_a.effort", "h_a", "g_s.view")  # graphs of encoding, and the one whose weights the runtime makes


def site_files(bundle: Bundle, library: Library, examples: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The files of a site: path relative to its folder → bytes.

    Args:
        bundle: any that decodes.
        library: where the page finds onnxruntime-web.
        examples: name → .ugic file, to be offered by the page; of this bundle's codec.

    Raises:
        PartError: a bundle of the encoder.
        UsageError: a bundle of a codec with context.
        CodecMismatchError: an example of another codec.
        NotUgicError, VersionError, TruncatedError, CorruptFileError: an example that is damaged.
    """
    if bundle.manifest.part == "encoder":
        raise PartError(
            f"{bundle.path}: holds the encoder part only; a page decodes: use one exported with --part both"
        )
    if bundle.manifest.schedule is not None:
        raise UsageError(f"{bundle.path}: a codec with context, which the page does not decode; use ugicm decode")
    examples = examples or {}
    for name, data in examples.items():
        if (found := read_header(data, name).codec_id) != bundle.codec_id:
            raise CodecMismatchError(f"{name}: made by codec {found.hex()}, but the page's is {bundle.codec_id.hex()}")
    files = {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.is_file()}
    if library.origin:  # the page's policy lets it ask no other server
        policy = b"connect-src 'self'"
        files[PAGE] = files[PAGE].replace(policy, policy + b" " + library.origin.encode())
    files |= {f"bundle/{name}": data for name, data in _decoder_part(bundle).items()}
    files |= {f"onnxruntime-web/{name}": data for name, data in library.contents.items()}
    files |= {f"examples/{name}": data for name, data in examples.items()}
    site = {
        "bundle": "bundle/",
        "inputLimit": bundle.exact.input_limit if bundle.exact else 0,
        "onnxruntime": library.entry(),
        "examples": [f"examples/{quote(name)}" for name in examples],
    }
    files[SITE] = (json.dumps(site, indent=1) + "\n").encode()
    return files


def write_site(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes a site, over an older one that is there.

    Raises:
        UsageError: the folder holds something else.
        OutputError: it cannot be written.
    """
    if os.path.isdir(folder) and any(folder.iterdir()) and not os.path.isfile(folder / SITE):
        raise UsageError(f"{folder}: holds something that is no site of ugicm web; give another name with -o")
    make_folder(folder)
    for name in sorted({str(Path(name).parent) for name in files} - {"."}):
        make_folder(folder / name)
    # site.json marks the folder as ours from the start; the page itself comes last, when all that it asks for is there.
    for name in sorted(files, key=lambda name: (name == PAGE) - (name == SITE)):
        write_atomically(folder / name, files[name])


def read_examples(paths: Sequence[Path]) -> dict[str, bytes]:
    """Files by name.

    Raises:
        UsageError: two of one name, or one that cannot be read.
    """
    found: dict[str, bytes] = {}
    for path in paths:
        if path.name in found:
            raise UsageError(f"{path}: a second example of this name; rename one")
        try:
            found[path.name] = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    return found


def _decoder_part(bundle: Bundle) -> dict[str, bytes]:
    """The files of a bundle that decoding takes, and a manifest that names those alone: a bundle of the decoder."""
    manifest = bundle.manifest
    graphs = {name: entry for name, entry in manifest.graphs.items() if name not in UNUSED}
    unused = {entry.file for entry in manifest.graphs.values()} - {entry.file for entry in graphs.values()}
    entries = {name: entry for name, entry in manifest.files.items() if name not in unused}
    contents = {name: bundle.file(name) for name in entries}
    part = replace(manifest, part="decoder", graphs=graphs, files=entries, views=())
    return {MANIFEST: part.to_json().encode(), **contents}
