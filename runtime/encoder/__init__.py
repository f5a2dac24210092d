"""Encoding. A decoder imports none of it."""
