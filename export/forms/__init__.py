"""Forms of a graph that compute the same: what CPUs run fastest, and back."""
