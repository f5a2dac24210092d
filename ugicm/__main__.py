"""`ugicm VERB …` and `python -m ugicm VERB …`."""

import sys

from ugicm.runtime.processes import signals


def main() -> int:
    """Runs the command line. From the first moment on a signal ends it without a traceback."""
    signals.leave_at_once()
    from ugicm.runtime.commands import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
