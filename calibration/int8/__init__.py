"""INT8 transforms: which layers, which steps, and the graphs that hold them."""
