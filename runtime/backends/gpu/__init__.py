"""NVIDIA GPUs: CUDA, arrays that stay there, and the two libraries that run graphs on them."""
