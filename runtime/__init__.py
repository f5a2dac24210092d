"""The decoder and encoder that ship: bundle, bitstream, range coder, backends, codec, command lines.

Knows numpy, constriction, Pillow and an inference backend. May never import torch, compressai or onnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.codec import Codec

__all__ = ["Codec", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Codec":
        from runtime.codec import Codec

        return Codec
    raise AttributeError(f"module 'runtime' has no attribute {name!r}")
