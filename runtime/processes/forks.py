"""A fork of a process that has run networks: it inherits sessions that can neither run there nor be destroyed."""

from __future__ import annotations

import ctypes
import gc
import sys


def keep() -> None:
    """Keeps the sessions that a fork inherits, and ends it without the destructors of C++ when Python has ended.

    The threads of ONNX Runtime's sessions, and one of the library's own, are not in a fork. Destructors wait for them
    for ever, or end in a fault: when a session is dropped, when Python ends, and when the C library does.
    """
    kind = getattr(sys.modules.get("onnxruntime"), "InferenceSession", None)
    if kind is None:
        return
    for session in [found for found in gc.get_objects() if type(found) is kind]:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    library = ctypes.CDLL(None)
    if hasattr(library, "on_exit"):  # of glibc: called with the exit status, the last registered first
        library.on_exit(library._exit, None)
        library.on_exit(library.fcloseall, None)
