"""The GPU benchmark, `python -m benchmarks.gpu`: a file a part, and `command`, which runs them in turn."""
