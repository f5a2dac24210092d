"""Measurements whose results stand in docs/results.md; each prints a table and can write JSON."""
