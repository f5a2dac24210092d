"""Training: data, objectives, the training loop, evaluation while training.

Knows the models. May not know bundles, bitstreams or backends.
"""
