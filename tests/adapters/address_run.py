"""`python -m tests.adapters.address_run`: the folder run on a Ray cluster that is started already, by each address.

Starts a head on 127.0.0.1 as a user would (`ray start --head`) and ends it. Needs the extra ray, and `ray[client]` for
its client's address; ports 6400 and 10001 have to be free.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.adapters.cluster_run import draw

GCS, CLIENT = 6400, 10001


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        work = Path(name)
        draw(work / "in", 12)
        os.environ |= {"RAY_TMPDIR": name, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        encode = [sys.executable, "-m", "ugicm", "encode", str(work / "in")]
        subprocess.run([*encode, "-o", str(work / "alone"), "--jobs", "1"], check=True, capture_output=True)
        expected = {path.name: path.read_bytes() for path in (work / "alone").rglob("*.ugic")}
        start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
        start += ["--node-ip-address", "127.0.0.1", "--port", str(GCS), "--ray-client-server-port", str(CLIENT)]
        head = subprocess.Popen([*start, "--include-dashboard", "false"], stdout=subprocess.DEVNULL)
        wrong = 0
        try:
            while subprocess.run([*start[:1], "status"], capture_output=True, check=False).returncode:
                if head.poll() is not None:
                    raise SystemExit("error: ray start --head ended")
                time.sleep(2)
            for i, address in enumerate((f"127.0.0.1:{GCS}", "auto", f"ray://127.0.0.1:{CLIENT}")):
                out, started = work / f"coded{i}", time.perf_counter()
                run = [*encode, "-o", str(out), "--ray", address, "--jobs", "2"]
                done = subprocess.run(run, capture_output=True, text=True, check=False)
                same = {path.name: path.read_bytes() for path in out.rglob("*.ugic")} == expected
                wrong += not same or done.returncode != 0
                said = "the same files" if same else f"WRONG: {done.stderr.strip().splitlines()[-1:]}"
                print(f"--ray {address}: {said}, {time.perf_counter() - started:.0f} s", flush=True)
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60)
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
