"""`python -m ugicm.calibration.int8`: see `command`."""

import sys

from ugicm.calibration.int8.command import main

if __name__ == "__main__":
    sys.exit(main())
