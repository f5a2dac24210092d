"""`python -m tests.adapters.extras_run [EXTRA …]`: each extra of the adapters in a fresh environment, and used there.

Installs `ugicm[EXTRA]` and nothing else: without a backend its adapter says in one line what to install. Then
`ugicm[cpu,EXTRA]`, and a picture goes through the adapter; what comes back is compared with the codec's own. Downloads
packages, hundreds of megabytes for some. By hand: no test of the suite.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PREPARE = """
import sys
from pathlib import Path
import numpy as np
if __name__ == "__main__":
    from ugicm import Codec
    y, x = np.mgrid[0:100, 0:150]
    image = np.stack([x % 256, y, (x + y) % 256], -1).astype(np.uint8)
    codec = Codec.from_bundle(threads=1)
    Path("files").mkdir(exist_ok=True)
    Path("files/a.ugic").write_bytes(codec.encode(image))
    expected = codec.decode(Path("files/a.ugic").read_bytes(), "machine")
"""
# What is done with a picture; "expected" is the machine view of files/a.ugic, "image" what it was encoded from.
USES = {
    "torch": """
    from torch.utils.data import DataLoader
    from ugicm.adapters.torch import Pictures
    loader = DataLoader(Pictures("files", "machine"), batch_size=None, num_workers=1)
    (found,) = [tensor.permute(1, 2, 0).numpy() for tensor in loader]
""",
    "datasets": """
    from datasets import load_dataset
    from ugicm.adapters.datasets import with_view
    rows = load_dataset("imagefolder", data_dir="files", split="train", cache_dir="cache")
    found = with_view(rows, "machine")[0]["image"]
""",
    "webdataset": """
    import tarfile, webdataset
    from ugicm.adapters.webdataset import Decoder
    with tarfile.open("a.tar", "w") as archive:
        archive.add("files/a.ugic", "a.ugic")
    (sample,) = webdataset.WebDataset("a.tar", shardshuffle=False).decode(Decoder("machine"))
    found = sample["ugic"]
""",
    "numcodecs": """
    import numcodecs
    ugicm = numcodecs.get_codec({"id": "ugicm", "condition": "machine"})
    assert bytes(ugicm.encode(image)) == Path("files/a.ugic").read_bytes()
    found = ugicm.decode(ugicm.encode(image)).reshape(expected.shape)
""",
    "ray": """
    from ugicm.runtime.commands.cli import main
    from ugicm.runtime.files.images import read_image, write_image
    Path("pictures").mkdir(exist_ok=True)
    write_image(Path("pictures/a.png"), image)
    assert main(["encode", "pictures", "-o", "coded", "--ray", "local", "--jobs", "1"]) == 0
    assert Path("coded/a.ugic").read_bytes() == Path("files/a.ugic").read_bytes()
    assert main(["decode", "coded", "-o", "views", "-c", "machine", "--ray", "local", "--jobs", "1"]) == 0
    found = read_image(Path("views/a.png"))
""",
    "triton": """
    import subprocess
    from ugicm.runtime.files.images import read_image
    client = Path("client.py").read_text().replace("localhost:8000", sys.argv[1])
    Path("client.py").write_text(client)
    subprocess.run([sys.executable, "client.py", "files/a.ugic", "machine"], check=True)
    found = read_image(Path("files/a.ugic.machine.png"))
""",
}
_END = """
    assert np.array_equal(found, expected), "the adapter's picture is another"
"""
_WITHOUT = """
import sys
from ugicm.runtime.commands.cli import main
sys.exit(main(["verify"]))
"""
_SERVE = """
import sys
from pathlib import Path
from tests.adapters.triton_server import server
from ugicm.runtime.commands import cli
work = Path(sys.argv[1])
assert cli.main(["triton", "-o", str(work / "repository"), "--instances", "1"]) == 0
with server(work / "repository", work) as running:
    print("ready", running.http, flush=True)
    sys.stdin.read()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"default: {' '.join(USES)}")
    parser.add_argument(
        "--server", type=Path, metavar="PYTHON", help="of an environment with nvidia-pytriton; triton's client asks it"
    )
    options = parser.parse_args()
    extras = options.extras or [extra for extra in USES if extra != "triton" or options.server]
    if unknown := set(extras) - set(USES):
        parser.error(f"no adapter's extra: {', '.join(sorted(unknown))}")
    failed = 0
    for extra in extras:
        with tempfile.TemporaryDirectory(prefix="ray") as name:
            try:
                print(f"{extra:12} {one(extra, Path(name), options.server)}", flush=True)
            except subprocess.CalledProcessError as error:
                failed += 1
                lines = (error.stderr or error.stdout or "no reason given").strip().splitlines()
                print(f"{extra:12} FAILED: {' | '.join(lines[-3:])}", flush=True)
    return 1 if failed else 0


def one(extra: str, work: Path, server: Path | None) -> str:
    """Installs and uses one extra. Returns the facts; raises CalledProcessError."""
    run([sys.executable, "-m", "venv", work / "venv"], work)
    python = work / "venv/bin/python"
    pip = [python, "-m", "pip", "install", "-q", "--no-compile"]
    started = time.perf_counter()
    run([python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", work, ROOT], work)
    (wheel,) = work.glob("*.whl")
    run([*pip, f"{wheel}[{extra}]"], work)
    without = subprocess.run([python, "-c", _WITHOUT], cwd=work, capture_output=True, text=True, check=False)
    said = without.stderr.strip()
    if without.returncode != 2 or len(said.splitlines()) != 1 or "pip install 'ugicm[cpu]'" not in said:
        raise subprocess.CalledProcessError(without.returncode, "without a backend", said)
    run([*pip, f"{wheel}[cpu,{extra}]"], work)
    seconds = time.perf_counter() - started
    (work / "use.py").write_text(_PREPARE + USES[extra] + _END)
    if extra == "triton":
        with serving(server, work) as address:
            (work / "client.py").write_bytes((work / "repository/client.py").read_bytes())
            run([python, "use.py", address], work)
    else:
        run([python, "use.py"], work)
    run([python, "-m", "pip", "check"], work)
    site = next((work / "venv/lib").glob("python*/site-packages"))
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    known = f"import importlib.metadata as m; print(m.version('{NAMES.get(extra, extra)}'))"
    version = run([python, "-c", known], work)
    return f"{version.strip():12} {size:6.0f} MB installed in {seconds:.0f} s: used, the picture is the codec's"


NAMES = {"triton": "tritonclient"}


def run(command: list[object], work: Path) -> str:
    """The output of a command that has to succeed, without this checkout on its path. Raises CalledProcessError."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"RAY_TMPDIR": str(work), "RAY_AUTH_MODE": "disabled"}
    texts = [str(word) for word in command]
    return subprocess.run(texts, cwd=work, env=environment, check=True, capture_output=True, text=True).stdout


@contextmanager
def serving(server: Path | None, work: Path) -> Iterator[str]:
    """The HTTP address of a real server that another environment runs."""
    if server is None:
        raise SystemExit("error: triton's client needs a server to ask: --server PYTHON")
    process = subprocess.Popen(
        [str(server), "-c", _SERVE, str(work)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                yield line.split()[1]
                break
    finally:
        process.communicate()


if __name__ == "__main__":
    sys.exit(main())
