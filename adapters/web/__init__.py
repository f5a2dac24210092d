"""A page that decodes .ugic files in the browser: a static folder of plain ES modules, written by `ugicm web`.

The modules in `static/` read the container and decode the symbols by `docs/bitstream.md`; networks run on onnxruntime-web.
"""
