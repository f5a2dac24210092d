"""Learned image codecs, deployed: checkpoints to bundles, and a runtime that decodes the same files anywhere.

    from ugicm import Codec

Everything is imported from here: `ugicm.runtime`, `ugicm.export` and the other rooms. In a checkout the rooms are the
folders beside this one; installed, they lie in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

__all__ = ["Codec", "__version__"]
__version__ = "0.1.0"

if not (Path(__file__).parent / "runtime").is_dir():
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    if name == "Codec":
        from ugicm.runtime.codec import Codec

        return Codec
    raise AttributeError(f"module 'ugicm' has no attribute {name!r}")
