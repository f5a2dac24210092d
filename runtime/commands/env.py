"""`ugicm env`: what is installed here and which backends really work, for a report of a fault."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ugicm import __version__
from ugicm.runtime.admission import graph_runner, reproduces
from ugicm.runtime.backends import NAMES, open_backend
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.catalogue import known_bundles
from ugicm.runtime.commands.cli import Parser, printable, run
from ugicm.runtime.commands.coder import coder_here
from ugicm.runtime.errors import UgicError
from ugicm.runtime.processes.cpus import processors

PACKAGES = (
    "numpy", "constriction", "numba", "Pillow", "rich", "onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu",
    "tensorrt", "tensorrt-rtx-cu13", "cuda-python", "torch", "onnx",
)  # fmt: skip
# These decide which integer kernels a library takes.
FEATURES = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip
VARIABLES = (
    "UGICM_BUNDLES", "UGICM_CODER", "UGICM_CONDITION", "UGICM_ENGINES", "ORT_INTRA_OP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the environment. Returns 0."""
    parser = Parser(prog="ugicm env", description="Show what is installed here and which backends really work.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return run(parser, _env, arguments)


def environment() -> dict[str, Any]:
    """The facts that a bug report needs, as JSON can say them.

    Returns:
        `ugicm`, `python`, `system`, `packages` (name → version, installed ones only), `cpu` (`model`, `usable` CPUs,
        `features`), `memory_gb`, `gpus` (as nvidia-smi names them), `coder` (the range coder that runs, or why there is
        none), `variables`, `bundles` (path, codec id or error) and `backends`: `name`, `works` (a graph of the shipped
        bundle ran), `exact` (its golden vectors came out bit for bit) and `reason`, why not.
    """
    return {
        "ugicm": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "cpu": _cpu(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
        "coder": coder_here(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "bundles": [_bundle(path) for path in known_bundles()],
        "backends": _backends(),
    }


def _backends() -> list[dict[str, Any]]:
    """Each is made to run the golden vectors: a library that lists a device need not be able to use it."""
    try:
        bundle = Bundle.open(DEFAULT)
    except UgicError as error:
        return [{"name": name, "works": False, "exact": False, "reason": str(error)} for name in NAMES]
    found = []
    for name in NAMES:
        works = exact = False
        reason = ""
        try:
            exact = reproduces(bundle, graph_runner(bundle, open_backend(name, bundle=bundle)))
            works = True
            reason = "" if exact else "differs from the golden vectors: the exact path runs on the reference"
        except Exception as error:  # a broken installation fails in its own ways, and is what this is to show
            reason = " ".join(str(error).split()) or type(error).__name__
        found.append({"name": name, "works": works, "exact": exact, "reason": reason})
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
    return {"model": model, "usable": processors(), "features": [name for name in FEATURES if name in flags]}


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _bundle(path: Path) -> dict[str, str]:
    try:
        return {"path": str(path), "codec_id": Bundle.open(path).manifest.codec_id}
    except UgicError as error:
        return {"path": str(path), "error": str(error)}


def _env(options: argparse.Namespace) -> int:
    facts = environment()
    print(json.dumps(facts, indent=1) if options.json else _text(facts))
    return 0


def _text(facts: dict[str, Any]) -> str:
    cpu = facts["cpu"]
    rows = [
        ("ugicm", facts["ugicm"]),
        ("python", facts["python"]),
        ("system", facts["system"]),
        ("packages", ", ".join(f"{name} {version}" for name, version in facts["packages"].items())),
        ("CPU", f"{cpu['model']}, {cpu['usable']} usable"),
        ("features", " ".join(cpu["features"]) or "unknown"),
        ("memory", f"{facts['memory_gb']} GB"),
        *(("GPU", gpu) for gpu in facts["gpus"] or ["none that nvidia-smi shows"]),
        ("coder", facts["coder"]),
        *(("variable", f"{name}={value}") for name, value in facts["variables"].items()),
        *(("bundle", f"{b.get('codec_id', 'unusable')}  {b.get('error', b['path'])}") for b in facts["bundles"]),
    ]
    for backend in facts["backends"]:
        state = "works, exact" if backend["exact"] else "works" if backend["works"] else "does not work"
        rows.append(("backend", f"{backend['name']}: {state}{': ' * bool(backend['reason'])}{backend['reason']}"))
    return "\n".join(f"{name:9} {printable(value)}" for name, value in rows)


if __name__ == "__main__":
    sys.exit(main())
