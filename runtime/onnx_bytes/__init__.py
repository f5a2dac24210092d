"""ONNX files as bytes: checked, read and changed without the package onnx."""
