"""A model repository for NVIDIA's Triton Inference Server: the runtime behind its python backend."""
