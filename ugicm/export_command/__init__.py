"""The name `export` of an installation: it makes `python -m export.to_onnx` work outside of a checkout."""
