"""`ugicm VERB …` and `python -m ugicm VERB …`."""

import os
import sys

from ugicm.runtime.processes import signals


def main() -> int:
    """Runs the command line. From the first moment on a signal ends it without a traceback."""
    signals.leave_at_once()
    # No verb computes with BLAS; numpy's starts a thread for each CPU, and interrupts the process where it may not.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ugicm.runtime.commands import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
