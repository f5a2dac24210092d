"""python client.py photo.ugic [human|machine|0 to 1 …]: asks ugicm_decode for views and saves them as PNG files."""

import sys

import numpy as np
import tritonclient.http as triton  # or tritonclient.grpc at port 8001, whose names are the same
from PIL import Image


def strings(name: str, values: list[bytes]) -> triton.InferInput:
    """An input of one request."""
    tensor = triton.InferInput(name, [1, len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array([values], dtype=object))
    return tensor


source, conditions = sys.argv[1], sys.argv[2:] or ["human"]
with open(source, "rb") as file:
    inputs = [strings("UGIC", [file.read()]), strings("CONDITION", [c.encode() for c in conditions])]
views = triton.InferenceServerClient("localhost:8000").infer("ugicm_decode", inputs).as_numpy("IMAGE")[0]
for condition, view in zip(conditions, views, strict=False):
    Image.fromarray(view).save(f"{source}.{condition}.png")
