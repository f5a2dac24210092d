"""`python -m ugicm VERB …` does what `ugicm VERB …` does."""

import sys

from ugicm.runtime.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
