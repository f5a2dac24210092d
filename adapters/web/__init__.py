"""A page that decodes .ugic files in the browser: a static folder of plain ES modules, written by `ugicm web`.

The modules in `static/` read the container and decode the symbols as `docs/bitstream.md` says; networks run on
onnxruntime-web.
"""
