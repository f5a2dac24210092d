"""The API reference is what the docstrings say."""

from __future__ import annotations

import importlib.util

from tests.docs.pages import ROOT


def test_the_api_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs/make.py")
    assert spec and spec.loader
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    written = {path: (ROOT / "docs" / path).read_text(encoding="utf-8") for path in make.api()}
    assert written == make.api(), "docs/api is behind the docstrings: run python docs/make.py"
