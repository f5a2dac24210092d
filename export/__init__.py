"""Checkpoint to bundle: recognise and load, lower, calibrate, write, and check what was written.

Knows the models and the bundle's schema; the only room that reads checkpoints for deployment.
"""
