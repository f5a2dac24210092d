"""Measures: how alike two images are, and how long work takes."""
