"""`python -m benchmarks.trees OLD NEW FOLDER`: whether two checkouts code alike, and which is faster.

Every image at every quality: the files and both views have to be equal to the last byte. Encode, decode, the import of
the codec and a decode as a whole process alternate between the trees in one run; ratios are of medians. Bit for bit
where both trees ship the same codec.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.spending import spend

CHILD = Path(__file__).with_name("tree_answers.py")
EXPLAINED = {
    "encode, decode": "milliseconds of a picture, one view",
    "import, process": "milliseconds of a new process: the codec imported; a file decoded from the command line",
    "ratio": "new over old, of medians",
}


class Tree:
    """A checkout, and a process that codes with it."""

    def __init__(self, root: Path, threads: int) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(root)}
        self.named = (root / "ugicm").is_dir()
        self._child = subprocess.Popen(
            [sys.executable, str(CHILD), str(threads)],
            cwd=root,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def code(self, image: Path, quality: int) -> dict[str, Any]:
        """What `tree_answers.answer` gives."""
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps({"image": str(image), "quality": quality}) + "\n")
        self._child.stdin.flush()
        answer: dict[str, Any] = json.loads(self._child.stdout.readline())
        return answer

    def importing(self) -> float:
        """Milliseconds of a process that imports the codec; -P, since the folder it runs in may hold another tree."""
        module = "import ugicm; ugicm.Codec" if self.named else "import runtime.codec"
        return self._spent([sys.executable, "-P", "-c", module])

    def decoding(self, file: Path, output: Path) -> float:
        """Milliseconds of a process that decodes a file."""
        module = ["ugicm", "decode"] if self.named else ["runtime.decode"]
        return self._spent([sys.executable, "-P", "-m", *module, str(file), "-o", str(output)])

    def end(self) -> None:
        """Ends the process."""
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait()

    def _spent(self, command: list[str]) -> float:
        return spend(command, self.environment).wall_s * 1e3


def compare(trees: list[Tree], images: list[Path], qualities: int, file: Path, repeat: int) -> dict[str, Any]:
    """The number of differences, and medians of each tree by what was timed."""
    times: list[dict[str, list[float]]] = [{"encode": [], "decode": [], "import": [], "process": []} for _ in trees]
    different = compared = 0
    for tree in trees:
        tree.code(images[0], 1)  # warm
    for image in images:
        for quality in range(1, qualities + 1):
            found = [tree.code(image, quality) for tree in trees]
            compared += len(found[0]["sha256"])
            different += sum(a != b for a, b in zip(found[0]["sha256"], found[1]["sha256"], strict=True))
            for record, one in zip(times, found, strict=True):
                record["encode"].append(one["encode"])
                record["decode"].append(one["decode"])
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeat):
            for record, tree in zip(times, trees, strict=True):
                record["import"].append(tree.importing())
                record["process"].append(tree.decoding(file, Path(folder, "out.png")))
    medians = [{name: statistics.median(values) for name, values in record.items()} for record in times]
    ratios = {name: medians[1][name] / medians[0][name] for name in medians[0]}
    return {"compared": compared, "different": different, "old": medians[0], "new": medians[1], "ratio": ratios}


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.trees", description=__doc__.split("\n")[0])
    p.add_argument("old", type=Path, help="a checkout")
    p.add_argument("new", type=Path, help="another")
    p.add_argument("folder", type=Path, help="of PNG images")
    p.add_argument("--file", type=Path, default=Path("tests/golden/heart.ugic"), help="what whole processes decode")
    p.add_argument("--qualities", type=int, default=8)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeat", type=int, default=15, help="of whole processes")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(arguments)
    trees = [Tree(root.resolve(), args.threads) for root in (args.old, args.new)]
    images = sorted(args.folder.glob("*.png"))
    found = compare(trees, images, args.qualities, args.file.resolve(), args.repeat)
    for tree in trees:
        tree.end()
    if args.json:
        print(json.dumps(found, indent=1))
        return int(found["different"] > 0)
    table = Table("milliseconds", "old", "new", "ratio")
    for name in found["ratio"]:
        table.add_row(name, *(f"{found[side][name]:.1f}" for side in ("old", "new")), f"{found['ratio'][name]:.3f}")
    console = Console()
    console.print(table)
    console.print(*(f"{name}: {meaning}" for name, meaning in EXPLAINED.items()), sep="\n")
    console.print(f"{found['different']} of {found['compared']} files and views differ")
    return int(found["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
