"""`python -m tests.attacks.fuzz CORPUS [libFuzzer options]`: fuzzing, guided by the lines of the runtime it reaches.

Needs `pip install '.[fuzz]'`. `python -m tests.attacks.fuzz --seeds CORPUS` writes inputs to start from. What an hour
of it found worth keeping lies in `tests/attacks/corpus`, which `test_fuzz.py` replays without the fuzzer.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def main() -> None:
    """Runs until a fault is found or `-max_total_time` is over; libFuzzer then ends the process."""
    if sys.argv[1:2] == ["--seeds"]:
        from tests.attacks.target import seeds

        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds():
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        return
    import atheris

    with atheris.instrument_imports(include=["ugicm.runtime"]):
        from tests.attacks.target import attack, prepare
    prepare()  # outside of the time that an input is given
    atheris.Setup(sys.argv, lambda data: attack(data) and None if data else None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
