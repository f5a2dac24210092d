"""The coder of entries: constriction, or the same one compiled by numba where constriction has no wheels (setup.py).

Each is a module with RangeDecoder, RangeEncoder, `encoder_model` and `decoder_model`, which may be None for the former.
"""

import importlib
import os
from functools import cache
from types import ModuleType

from ugicm.runtime.errors import BackendError

NAMES = ("constriction", "numba")
VARIABLE = "UGICM_CODER"


@cache
def coder() -> ModuleType:
    """The one that UGICM_CODER names, else the first that is installed. Raises BackendError: there is none."""
    asked = os.environ.get(VARIABLE)
    for name in NAMES if not asked else {asked}.intersection(NAMES):
        try:
            return importlib.import_module(f"{__name__}.by_{name}")
        except ImportError:
            continue
    words = f"{VARIABLE}={asked} names no range coder" if asked else "no range coder"
    raise BackendError(f"{words} that is installed; install {' or '.join(NAMES)}")
