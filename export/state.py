"""Finds the weights in what a checkpoint holds: under any wrapper, with any prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

_DEPTH = 4
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")
"""Names that DataParallel and torch.compile put before those of the module they wrap, at any depth."""
_NETWORK = re.compile(r"^((?:.*?\.)??)(?:g_a|h_a|img_encoder)\.")
"""Learned codecs have a part of such a name; a wrapper's prefix may stand before it."""
_OLD_NAME = re.compile(r"^(|.*\.)entropy_bottleneck\._(matrix|bias|factor|matrices\.|biases\.|factors\.)(\d+)$")
_LISTS = {"matrix": "matrices.", "bias": "biases.", "factor": "factors."}


def state_of(values: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """The state dict of a network in loaded values, with today's key names; None where there is none.

    Of several, such as the weights and their moving average, the first in the file is taken, unless it lies deeper.
    """
    for candidate in _candidates(values):
        if (prefix := _prefix(candidate)) is None:
            continue
        named = {k.removeprefix(prefix): v for k, v in candidate.items() if k.startswith(prefix)}
        if all(isinstance(v, Tensor) for v in named.values()):
            return {_key(k): v.float() if v.is_floating_point() else v for k, v in named.items()}
    return None


def _candidates(values: Mapping[Any, Any]) -> Iterator[Mapping[str, Any]]:
    """Mappings by strings, those that lie less deep first."""
    level: list[Mapping[Any, Any]] = [values]
    for _ in range(_DEPTH):
        yield from ({_WRAPPED.sub("", k): v for k, v in m.items() if isinstance(k, str)} for m in level)
        level = [child for m in level for child in m.values() if isinstance(child, Mapping)]


def _prefix(values: Mapping[str, Any]) -> str | None:
    """The prefix before the names of a network's parameters: "" for nothing, None where there is no network.

    The shortest such prefix counts: a network inside of another has a longer one.
    """
    prefixes = {m[1] for k, v in values.items() if isinstance(v, Tensor) and (m := _NETWORK.match(k))}
    return min(prefixes, key=len, default=None)


def _key(key: str) -> str:
    """A key with the entropy bottleneck's parameters in lists."""
    if old := _OLD_NAME.match(key):
        return f"{old[1]}entropy_bottleneck.{_LISTS.get(old[2], old[2])}{old[3]}"
    return key
