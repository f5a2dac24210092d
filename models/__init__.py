"""The networks, as torch modules, and their conditioning.

Knows torch and, in one file, compressai. May not know bundles, bitstreams or backends.
"""
