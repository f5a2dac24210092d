"""Integers for the entropy path: layers and samples in, an exact network with its proof out."""
