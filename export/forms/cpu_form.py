"""The form that CPUs run fastest, and back to the one that calibration and other devices begin at.

Each step computes the same, up to the order of summation, and can be undone, to the last bit of every weight.
"""

from __future__ import annotations

from collections.abc import Mapping

from ugicm.export.forms import blocked, channels_last, phases, winograd
from ugicm.export.forms.rewriting import Array, Nodes, Rewritten, in_turn


def to_cpu(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph for CPUs."""
    return in_turn((phases.split, channels_last.pack, blocked.hold), nodes, constants, outputs)


def to_fast_cpu(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """What `to_cpu` gives, with fewer multiplications in wide convolutions, whose results differ in the last digits."""
    return in_turn((to_cpu, winograd.split), nodes, constants, outputs)


def from_cpu(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph as either form was made of them; the names of some tensors differ."""
    return in_turn((winograd.release, blocked.release, channels_last.unpack, phases.join), nodes, constants, outputs)
