"""A folder of files that replaces another one: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path


def replace_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files beside `folder` and then gives them its name; what was there before is removed.

    Args:
        folder: its parent exists.
        contents: file name → bytes.

    Raises:
        OSError: the disk refuses; nothing new is left then.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, data in contents.items():
            (temporary / name).write_bytes(data)
        if folder.is_dir():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            os.replace(folder, old)
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
