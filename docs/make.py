"""`python docs/make.py`: writes the generated part of docs/: `api.md` and `api/`, from the docstrings.

With `--screenshot` also `report.jpg` and `results/web.jpg`, the report and the page of a photograph that scikit-image
brings along, as headless Chromium shows them; the page needs onnxruntime-web in node_modules or NODE_PATH. Run it after
changing a docstring, or the codec that ships; tests/docs compares the API's pages.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# What programs call; the other modules are listed with one line each.
API = (
    "ugicm.runtime.codec",
    "ugicm.runtime.bundle",
    "ugicm.runtime.catalogue",
    "ugicm.runtime.files.images",
    "ugicm.runtime.measures.metrics",
    "ugicm.adapters.pillow",
    "ugicm.runtime.bitstream",
    "ugicm.runtime.additions",
    "ugicm.runtime.encoder.container",
    "ugicm.runtime.guard",
    "ugicm.runtime.tables",
    "ugicm.runtime.range_coder",
    "ugicm.runtime.encoder.range_encoder",
    "ugicm.runtime.staged_coder",
    "ugicm.runtime.exact",
    "ugicm.runtime.backends",
    "ugicm.runtime.errors",
)
ROOMS = ("runtime", "adapters", "export", "calibration", "training", "models", "benchmarks")
_MADE = "Made from the docstrings by `python docs/make.py`; edit those."
_HEAD = f"""# API reference

{_MADE} Most programs need `from ugicm import Codec` and nothing else: it is
[`ugicm.runtime.codec`](api/runtime.md#ugicmruntimecodec).
"""
_AT_ITS_SIZE = """
const size = document.querySelectorAll(".compare select")[2];
size.value = "1";
size.dispatchEvent(new Event("change"));
"""


def api() -> dict[Path, str]:
    """The texts of `api.md` and of a page for each room, by their paths below docs/."""
    index = _HEAD + "\n| room | |\n|---|---|\n"
    pages = {}
    for room in ROOMS:
        index += f"| [{room}](api/{room}.md) | {_first_sentence(ROOT / room / '__init__.py')} |\n"
        parts = [f"# {room}", _first_sentence(ROOT / room / "__init__.py"), _MADE]
        parts += [_module(importlib.import_module(name)) for name in API if name.split(".")[1] == room]
        rows = "".join(
            f"\n| `{_dotted(path)}` | {_first_sentence(path)} |" for path in sorted((ROOT / room).rglob("*.py"))
        )
        parts.append(f"## All modules\n\n| module | |\n|---|---|{rows}")
        pages[Path("api", f"{room}.md")] = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    return {Path("api.md"): index, **pages}


def _dotted(path: Path) -> str:
    """The name that a file of a room is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "ugicm." * (parts[0] != "benchmarks") + ".".join(parts).removesuffix(".__init__")


def screenshot(target: Path) -> None:
    """Write the picture of a report to `target`, a JPEG of at most 400 kB."""
    from PIL import Image
    from skimage.data import astronaut

    from tests.browser import visit
    from ugicm.runtime.commands import report

    with tempfile.TemporaryDirectory() as folder:
        photo, page, shot = (Path(folder) / name for name in ("astronaut.png", "report.html", "shot.png"))
        Image.fromarray(astronaut()).save(photo)
        if report.main([str(photo), "-o", str(page), "--quality", "2"]):
            raise SystemExit("error: the report failed")
        # At its own size the photograph leaves room for the rest of the page.
        text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{_AT_ITS_SIZE}</script></body>")
        page.write_text(text, encoding="utf-8")
        visit(page, width=1280, height=2080, picture=shot)
        _as_jpeg(shot, target, 80)


def web_screenshot(target: Path) -> None:
    """Write the picture of the page of `ugicm web` to `target`, a JPEG."""
    from skimage.data import coffee

    from tests.adapters.web.page import watched
    from ugicm import Codec
    from ugicm.adapters.web.library import found
    from ugicm.adapters.web.site import site_files, write_site

    library, codec, name = found(), Codec.from_bundle(), "coffee.ugic"
    if library is None:
        raise SystemExit("error: no onnxruntime-web in node_modules or NODE_PATH")
    with tempfile.TemporaryDirectory() as folder:
        site, shot = Path(folder) / "site", Path(folder) / "shot.png"
        write_site(site, site_files(codec.bundle, library, {name: codec.encode(coffee(), 2)}))
        query = f"?file=examples/{name}&drop=examples/{name}&threads=1"
        watched(site, query, width=1240, height=1024, picture=shot)
        _as_jpeg(shot, target, 85)


def _as_jpeg(shot: Path, target: Path, quality: int) -> None:
    """A screenshot, 1000 pixels wide."""
    from PIL import Image

    image = Image.open(shot).convert("RGB")
    size = (1000, round(1000 * image.height / image.width))
    image.resize(size, Image.Resampling.LANCZOS).save(target, quality=quality, optimize=True)
    print(f"{target}  {target.stat().st_size:,} bytes: look at it")


def _module(module: ModuleType) -> str:
    parts = [f"## {module.__name__}", _text(inspect.getdoc(module) or "")]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            parts += _class(name, value)
        elif inspect.isfunction(value):
            parts += [f"### {name}", _code(f"{name}{_signature(value)}"), _text(inspect.getdoc(value) or "")]
    return "\n\n".join(part for part in parts if part)


def _class(name: str, value: type) -> list[str]:
    bases = [base.__name__ for base in value.__bases__ if base is not object and base.__name__ != "Protocol"]
    head = f"class {name}({', '.join(bases)})" if bases else f"class {name}"
    parts = [f"### {name}", _code(head), _text(value.__doc__ or "", clean=True)]
    for member, attribute in vars(value).items():
        function = attribute.__func__ if isinstance(attribute, classmethod | staticmethod) else attribute
        own = f"{name}.{member}"
        if member.startswith("_") or not getattr(function, "__doc__", None):
            continue
        if inspect.isfunction(function):
            parts += [f"#### {own}", _code(f"{own}{_signature(function)}"), _text(inspect.getdoc(function) or "")]
        elif isinstance(function, property) or type(function).__name__ == "cached_property":
            parts += [f"#### {own}", _text(inspect.getdoc(function) or "")]
    return parts


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    shown: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in "".join(part[:1] for part in shown):
            shown.append("*")
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        kind = "" if parameter.annotation is parameter.empty else f": {_name(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        shown.append(f"{star}{parameter.name}{kind}{default}")
    result = signature.return_annotation
    return f"({', '.join(shown)})" + ("" if result is signature.empty else f" -> {_name(result)}")


def _name(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _code(text: str) -> str:
    return f"```pyi\n{text}\n```"


def _text(docstring: str, clean: bool = False) -> str:
    """A docstring as Markdown: its sections as lists, all else as it is."""
    lines: list[str] = []
    item, begun = False, ""
    for line in (inspect.cleandoc(docstring) if clean else docstring).splitlines():
        head = re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line)
        if head:
            item = True
            lines += [f"*{head[1]}*", ""]
        elif item and line.startswith("    "):
            words = begun + line[4:]
            begun = ""
            entry = re.match(r"([\w, *]+): ", words)
            if words.startswith("    "):  # the rest of an entry
                lines.append(f"  {words.strip()}")
            elif not entry and words.endswith(","):  # several names, the colon comes on the next line
                begun = f"{words} "
            elif entry:
                lines.append(f"- `{entry[1]}`: {words[entry.end() :]}")
            else:
                lines.append(words)
        else:
            item = item and not line
            lines.append(line)
    return "\n".join(lines).strip("\n")


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.]) (?=[A-Z])", paragraph)[0].replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screenshot", action="store_true", help="write the pictures too; needs Chromium")
    options = parser.parse_args()
    for name, text in api().items():
        target = ROOT / "docs" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(f"{target}  {target.stat().st_size:,} bytes")
    if options.screenshot:
        screenshot(ROOT / "docs/report.jpg")
        web_screenshot(ROOT / "docs/results/web.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
