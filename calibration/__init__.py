"""Calibration: ranges and integers. Layers and samples in, an integer network out (the entropy path).

It knows numpy, ONNX and the runtime's schema; it must not know torch, the models or the training.
"""
