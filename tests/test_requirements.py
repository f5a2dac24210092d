"""Every machine gets exactly one range coder, and constriction wherever it has wheels."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from tests.machines.requirements import requirements

CODERS = {"constriction", "numba"}


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "constriction"),
        ("darwin", "arm64", "constriction"),
        ("darwin", "x86_64", "constriction"),
        ("win32", "AMD64", "constriction"),
        ("linux", "aarch64", "numba"),
        ("linux", "ppc64le", "numba"),
        ("win32", "ARM64", "numba"),
        ("freebsd14", "amd64", "numba"),
    ],
)
def test_one_coder_a_machine(system: str, machine: str, expected: str) -> None:
    names = {Requirement(text).name for text in requirements(system, machine)}
    assert CODERS & names == {expected}
    assert {"numpy", "Pillow", "rich"} < names
