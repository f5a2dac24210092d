"""How the graphs of a bundle are run: whole or in tiles, with a condition folded in."""
