"""The decoder and encoder that ship: bundle, bitstream, range coder, backends, codec, command lines.

Knows numpy, constriction or numba, Pillow and an inference backend. May never import torch, compressai or onnx.
A file directly in this folder is the evening's reading; a folder in it makes that fast, many or pleasant.
"""
