"""`ugicm triton`: a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ugicm.adapters.triton.repository import Serving, default_batch, repository_files, write_repository
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.commands.cli import Parser, add_backend_options, printable, run
from ugicm.runtime.errors import UsageError
from ugicm.runtime.processes.cpus import most_threads, processors


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the repository. Returns the exit status."""
    parser = Parser(prog="ugicm triton", description="Write a model repository for NVIDIA's Triton Inference Server.")
    parser.add_argument(
        "bundle", nargs="?", type=Path, default=DEFAULT, metavar="BUNDLE", help="default: the shipped one"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="the repository")
    parser.add_argument(
        "--instances", type=int, metavar="N", help="of each model; default: one for each CPU, or one on a GPU"
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="requests handed over together at most; default: 1, or on a GPU 16, or as many as its engines take",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of an instance; default: 1")
    parser.add_argument(
        "--pixels", type=int, default=Serving.pixels, metavar="N", help="of the largest picture; default: 2^26"
    )
    add_backend_options(parser)
    return run(parser, _triton, arguments)


def _triton(options: argparse.Namespace) -> int:
    gpu = options.backend != "onnxruntime"
    instances = (1 if gpu else processors()) if options.instances is None else options.instances
    bundle = Bundle.open(options.bundle)
    batch = default_batch(bundle, options.backend, options.precision) if options.batch is None else options.batch
    limits = {"instances": (instances, 1024), "batch": (batch, 1024), "threads": (options.threads, most_threads())}
    for name, (value, most) in {**limits, "pixels": (options.pixels, 1 << 28)}.items():
        if not 1 <= value <= most:
            raise UsageError(f"--{name} {value}: use a number from 1 to {most}")
    serving = Serving(instances, options.backend, options.precision, options.threads, batch, options.pixels)
    files = repository_files(bundle, serving)
    write_repository(options.output, files)
    models = sorted({name.split("/")[0] for name in files if "/" in name})
    size = sum(map(len, files.values()))
    print(f"{printable(options.output)}: {' and '.join(models)}, {len(files)} files, {size / 1e6:.1f} MB")
    print(f"next: {printable(options.output / 'README.md')} says how to start a server and how to ask it")
    return 0
