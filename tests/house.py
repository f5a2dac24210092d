"""The structure of the checkout, read from its sources: `python -m tests.house` prints rooms, lines and the heart."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "training", "export", "calibration", "runtime", "adapters")
PLACES = ("ugicm", *ROOMS, "benchmarks", "docs", "tests")
_DECODE = """
import sys
from pathlib import Path
from ugicm import Codec
codec = Codec.from_bundle(threads=1)
codec.decode(Path("tests/golden/heart.ugic").read_bytes())
print(*sorted(m.__file__ for n, m in list(sys.modules.items()) if n.split(".")[0] == "ugicm" and m.__file__), sep="\\n")
"""


def sources(*places: str) -> list[Path]:
    """The Python files of some places of the checkout."""
    return sorted(path for place in places for path in (ROOT / place).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """The dotted names of every import in a file, those inside functions included."""
    return set(_imports(tree(path), path))


def _imports(node: ast.AST, path: Path) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            modules = [name for name in names if file_of(name)]
            yield from modules or [child.module]
            if modules and len(modules) < len(names):
                yield child.module


def file_of(module: str) -> Path | None:
    """The file of one of our modules, None for another's."""
    parts = module.split(".")
    base = ROOT / Path(*(parts[1:] if parts[0] == "ugicm" and len(parts) > 1 else parts))
    if parts[0] not in ("ugicm", "tests", "benchmarks"):
        return None
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def words(path: Path) -> set[object]:
    """What a file imports, by top-level name, and its texts."""
    texts = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}
    return texts | {name.split(".")[0] for name in imported(path)}


def graph(files: list[Path]) -> dict[Path, set[Path]]:
    """Which files each file imports, wherever it says so."""
    known = set(files)
    return {p: {f for name in imported(p) if (f := file_of(name)) in known and f != p} - {None} for p in files}


def circles(edges: Mapping[Path, set[Path]]) -> list[list[Path]]:
    """Groups of files that import each other, directly or not (Tarjan 1972)."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    found: list[list[Path]] = []

    def visit(node: Path) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def privates(path: Path) -> list[str]:
    """Private names of other modules that a file uses: `x._name` of anything but itself, and `from m import _name`.

    Of an object that a file makes itself, or of a class of its own, a private name is its own business: those that
    the file defines are left out.
    """
    own = {node.name for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and _is_self(node.value)}
    own |= {
        n.target.id for n in ast.walk(tree(path)) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    found = []
    for node in ast.walk(tree(path)):
        if (
            (
                isinstance(node, ast.Attribute)
                and _is_private(node.attr)
                and node.attr not in own
                and not _is_self(node.value)
            )
            or isinstance(node, ast.ImportFrom)
            and any(_is_private(alias.name) for alias in node.names)
        ):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def bare(path: Path) -> list[str]:
    """Imports of our rooms by a name that is not `ugicm`'s."""
    return sorted(name for name in imported(path) if name.split(".")[0] in ROOMS)


def heart() -> list[Path]:
    """Our files that decoding a file on a CPU imports."""
    done = subprocess.run([sys.executable, "-c", _DECODE], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Prints files and lines by place, and the heart."""
    for place in PLACES:
        files = sources(place)
        print(f"{place:12} {len(files):4} files {sum(map(lines, files)):6} lines")
    files = heart()
    for path in files:
        print(f"  {lines(path):5}  {path.relative_to(ROOT)}")
    print(f"the heart, which decoding on a CPU imports: {len(files)} files, {sum(map(lines, files))} lines")


if __name__ == "__main__":
    main()
