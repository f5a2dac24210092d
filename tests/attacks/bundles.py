"""Uses bundles that `hostile` changed: opened, described, and decoded, encoded or verified with."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np

from tests.attacks import hostile
from tests.attacks.target import GOLDEN, KINDS, opened, prepare
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.commands import info
from ugicm.runtime.commands import verify as verification
from ugicm.runtime.encoder import container
from ugicm.runtime.manifest import MANIFEST, Manifest

GRAPHS, ARRAYS, MANIFESTS = (KINDS.index(kind) for kind in KINDS[9:])
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def use_changed(kind: int, payload: bytes) -> None:
    """One bundle, changed as the payload's bytes decide, and one thing done with it."""
    draws = hostile.Draws(payload)
    base = draws.below(len(_bases()))
    contents, action = _bases()[base], draws.below(4)
    if kind == MANIFESTS:
        manifest = Manifest.from_json(hostile.manifest(contents, draws), Path(MANIFEST))
        changed = {name: contents.get(name, b"") for name in manifest.files}
    else:
        manifest = Manifest.from_json(contents[MANIFEST].decode(), Path(MANIFEST))
        changed = (hostile.graph if kind == GRAPHS else hostile.arrays)(contents, draws)
    bundle = opened(changed, manifest)
    codec = Codec(bundle, prepare()[0].backend)
    with patch.object(Bundle, "open", lambda path: bundle):
        facts = info.describe_bundle(Path("bundle"))
    assert json.dumps(facts) and info._bundle_text(facts).encode()
    if action < 2:
        stream = replace(bitstream.parse(_file(base)), codec_id=bundle.codec_id)
        condition = draws.one((*codec.conditions, 0.5)) if codec.conditions else None
        view = codec.decode(container.pack(stream), condition)
        assert view.dtype == np.uint8 and view.shape == IMAGE.shape
    elif action == 2:
        assert codec.encode(IMAGE, 1 + draws.below(codec.qualities))
    else:
        with patch.object(verification, "LEVELS", ("all",)):
            assert all("\n" not in verdict.reason for verdict in verification.verify(bundle, "onnxruntime"))


@cache
def _bases() -> tuple[dict[str, bytes], ...]:
    named = [Path(name) for name in os.environ.get(hostile.VARIABLE, "").split(os.pathsep) if name]
    return tuple(
        {file.name: file.read_bytes() for file in sorted(folder.iterdir())} for folder in (GOLDEN / "bundle", *named)
    )


@cache
def _file(base: int) -> bytes:
    return Codec(opened(_bases()[base]), prepare()[0].backend).encode(IMAGE, 1)
