"""`python -m tests.adapters.triton_run`: the real Triton server answers as the runtime does, whatever it is sent.

In an environment of its own with nvidia-pytriton, tritonclient[all] and numpy below 2.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.adapters.triton_server import Server, server
from ugicm import Codec
from ugicm.runtime.commands import cli
from ugicm.runtime.commands.encode import Keeping, encode_picture

SIZES = ((64, 64), (200, 333), (512, 384), (77, 130), (256, 512))


def strings(client: Any, name: str, values: Sequence[bytes]) -> Any:
    tensor = client.InferInput(name, [1, len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array([values], dtype=object))
    return tensor


def views(client: Any, connection: Any, data: bytes, conditions: Sequence[bytes] = ()) -> np.ndarray:
    """uint8 (V, H, W, 3). Raises the client's error."""
    inputs = [strings(client, "UGIC", [data])]
    if conditions:
        inputs.append(strings(client, "CONDITION", conditions))
    return connection.infer("ugicm_decode", inputs).as_numpy("IMAGE")[0]


def encoded(client: Any, connection: Any, picture: bytes, quality: int) -> bytes:
    number = client.InferInput("QUALITY", [1, 1], "INT32")
    number.set_data_from_numpy(np.array([[quality]], np.int32))
    return connection.infer("ugicm_encode", [strings(client, "PICTURE", [picture]), number]).as_numpy("UGIC")[0, 0]


def refusal(work: Callable[[], Any]) -> str:
    """The status and words of an error of either client, or "answered"."""
    from tritonclient.utils import InferenceServerException

    try:
        work()
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return "answered"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="that are under way at once; default: 200")
    options = parser.parse_args()
    codec = Codec.from_bundle(threads=1)
    random = np.random.default_rng(0)
    pictures, files = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for i, (height, width) in enumerate(SIZES):
            y, x = np.mgrid[0:height, 0:width]
            waves = np.stack([127 + 100 * np.sin(x / (9 + i)), 127 + 90 * np.cos(y / 13), (x + y) % 256], -1)
            pixels = (waves + random.normal(0, 5, waves.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(work / f"{i}.png")
            pictures.append((work / f"{i}.png").read_bytes())
            files.append(codec.encode(pixels, 1 + i))
        assert cli.main(["triton", "-o", str(work / "repository"), "--instances", "2"]) == 0
        with server(work / "repository", work) as running:
            bad = check(running, codec, pictures, files, options.requests)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait()
        with server(work / "repository", work) as running:
            import tritonclient.http as http

            same = np.array_equal(
                views(http, http.InferenceServerClient(running.http), files[0])[0], codec.decode(files[0])
            )
            print(f"killed and started again: {'answers' if same else 'WRONG'}")
        arguments = ["--instances", "1", "--batch", "8"]
        assert cli.main(["triton", "-o", str(work / "batches"), *arguments]) == 0
        with server(work / "batches", work) as running:
            bad += batches(running, codec, files)
        return 1 if bad or not same else 0


def batches(running: Server, codec: Codec, files: list[bytes]) -> int:
    """Files of two sizes at once, damaged ones among them, to a server that batches; how many answers are wrong.

    Pixels of a batch differ from one file's by the rounding of sums.
    """
    import tritonclient.grpc as grpc

    connection = grpc.InferenceServerClient(running.grpc)
    expected = {files[i]: codec.decode(files[i]).astype(int) for i in (0, 3)}
    jobs = [files[0], files[3], files[0], files[3], files[0][:-9]] * 12

    def ask(data: bytes) -> bool:
        if data not in expected:
            return "answered" not in refusal(lambda: views(grpc, connection, data))
        difference = np.abs(views(grpc, connection, data)[0] - expected[data])
        return bool(difference.max() <= 1 and (difference > 0).mean() < 1e-3)

    with ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(ask, jobs))
    (counted,) = connection.get_inference_statistics("ugicm_decode").model_stats
    sizes = {int(batch.batch_size): int(batch.compute_infer.count) for batch in counted.batch_stats}
    print(f"{len(jobs)} requests at once in batches (size: how many) {sizes}: {results.count(False)} wrong")
    return results.count(False) + (max(sizes) < 2)


def hostile(client: Any, connection: Any, pictures: list[bytes], files: list[bytes]) -> int:
    """Prints how bad requests are refused; how many were not, or not with one line as INVALID_ARGUMENT."""
    damaged = bytearray(files[2])
    damaged[len(damaged) // 2] ^= 0xFF
    requests: dict[str, Callable[[], Any]] = {
        "empty": lambda: views(client, connection, b""),
        "no file of ours": lambda: views(client, connection, b"hello"),
        "cut": lambda: views(client, connection, files[2][:-20]),
        "damaged": lambda: views(client, connection, bytes(damaged)),
        "a condition that is none": lambda: views(client, connection, files[0], [b"robot"]),
        "no picture": lambda: encoded(client, connection, b"GIF89a, or not", 3),
        "no such quality": lambda: encoded(client, connection, pictures[0], 99),
    }
    wrong = 0
    for words, work in requests.items():
        said = refusal(work)
        print(f"  {words}: {said}")
        status = said.split(":")[0]
        wrong += not ("INVALID_ARG" in status or "400" in status) or "Traceback" in said
    return wrong


def check(running: Server, codec: Codec, pictures: list[bytes], files: list[bytes], count: int) -> int:
    """Prints what was found; how much of it is wrong."""
    import tritonclient.grpc as grpc
    import tritonclient.http as http

    wrong = 0
    one_http = http.InferenceServerClient(running.http)
    one_grpc = grpc.InferenceServerClient(running.grpc)
    both = codec.decode_views(files[1], ["human", "machine", 0.25])
    for client, connection in ((http, one_http), (grpc, one_grpc)):
        exact = [np.array_equal(views(client, connection, data)[0], codec.decode(data)) for data in files]
        found = views(client, connection, files[1], [b"human", b"machine", b"0.25"])
        several = all(np.array_equal(a, b) for a, b in zip(found, both, strict=True))
        coded = [
            encoded(client, connection, picture, 3) == encode_picture(codec, picture, 3, Keeping(), "PICTURE").data
            for picture in pictures
        ]
        print(
            f"{client.__name__}: {sum(exact)} of {len(exact)} files exact, views {several}, {sum(coded)} encoded alike"
        )
        wrong += not all(exact) + (not several) + (not all(coded))
        wrong += hostile(client, connection, pictures, files)

    jobs = [(i % len(files), client) for i in range(count) for client in (("http", "grpc")[i % 2],)]
    expected = [codec.decode(data) for data in files]

    def ask(job: tuple[int, str]) -> bool:
        index, kind = job
        # A client of HTTP belongs to its thread, one of gRPC to all.
        client, connection = (grpc, one_grpc)
        if kind == "http":
            client, connection = http, http.InferenceServerClient(running.http, network_timeout=600)
        if index == 3:  # malformed requests among the others
            return "answered" not in refusal(lambda: views(client, connection, files[3][:40]))
        return np.array_equal(views(client, connection, files[index])[0], expected[index])

    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(ask, jobs))
    seconds = time.perf_counter() - started
    print(f"{count} requests at once: {results.count(False)} wrong, {seconds:.1f} s")
    return wrong + results.count(False)


if __name__ == "__main__":
    sys.exit(main())
