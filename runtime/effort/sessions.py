"""Graphs derived from a bundle's, loaded once for each process and each codec."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from ugicm.runtime.backends import Graph
from ugicm.runtime.effort.tape import UnsupportedError
from ugicm.runtime.errors import BackendError, UsageError
from ugicm.runtime.graphs.run import Networks

_LOADED: WeakKeyDictionary[Networks, dict[tuple[int, str], Graph]] = WeakKeyDictionary()
_LOCK = threading.RLock()


def derived(networks: Networks, name: str, make: Callable[[], bytes]) -> Graph:
    """The graph of a name, made and loaded at its first use in this process.

    Raises:
        UsageError: it cannot be made of this bundle's graphs, or not run on this backend.
    """
    with _LOCK:
        known = _LOADED.setdefault(networks, {})
        key = (os.getpid(), name)  # a fork inherits no threads, so none of its parent's sessions runs
        if key not in known:
            try:
                known[key] = networks.backend.load(make(), name)
            except (UnsupportedError, ValueError, BackendError) as error:
                raise UsageError(f"{networks.bundle.path}: no effort is possible with this codec: {error}") from error
        return known[key]
