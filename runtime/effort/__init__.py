"""Encoders that search: gradient steps on the latents of one picture, and the quality that meets a target.

It is imported when an effort or a target is asked for, and reads a bundle's own graphs. Decoders know nothing of it.
"""
