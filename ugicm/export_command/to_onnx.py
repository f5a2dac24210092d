"""`python -m export.to_onnx CHECKPOINT` is `ugicm export CHECKPOINT`."""

import sys

from ugicm.export.to_onnx import main

if __name__ == "__main__":
    sys.exit(main())
