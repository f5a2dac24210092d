"""Image files in and out, and writes that happen whole or not at all."""
