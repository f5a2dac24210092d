"""The real Triton server, as the wheel of nvidia-pytriton carries it, for one model repository."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A server that answers: `http` and `grpc` are its addresses."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str


@contextmanager
def server(repository: Path, work: Path, seconds: float = 120) -> Iterator[Server]:
    """Starts a server and ends it.

    Args:
        work: for the python backend's own files, and the server's log.
        seconds: that it may take to be ready.
    """
    import pytriton

    home = Path(pytriton.__file__).parent / "tritonserver"
    backends = work / "backends"
    if not backends.exists():
        shutil.copytree(home / "backends" / "python", backends / "python")
        stub = f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
        shutil.copy(home / stub, backends / "python")
    ports = [_free() for _ in range(3)]
    libraries = [
        sysconfig.get_config_var("LIBDIR"),
        str(home.parents[1] / "nvidia_pytriton.libs"),
        os.environ.get("LD_LIBRARY_PATH", ""),
    ]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), sysconfig.get_path("purelib")]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }
    command = [
        str(home / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
    ]
    for name, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{name}-port={port}", f"--{name}-address={HERE}"]
    with (work / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://{HERE}:{ports[0]}/v2/health/ready", process, seconds, work / "server.log")
        yield Server(process, f"{HERE}:{ports[0]}", f"{HERE}:{ports[1]}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait(address: str, process: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise SystemExit(log.read_text(errors="replace")[-3000:])


def _free() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])
