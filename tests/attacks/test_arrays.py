"""Array files and manifests of a bundle that are wrong in ways that have a name; `hostile` makes the rest."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.attacks.target import opened, prepare
from ugicm.runtime.bundle import LARGEST_COUNT, read_arrays
from ugicm.runtime.errors import BundleError, UgicError
from ugicm.runtime.exact import ExactLayer, ExactNetwork
from ugicm.runtime.manifest import MANIFEST, Manifest

Arrays = dict[str, np.ndarray]


def changed(file: str, change: Callable[[Arrays], object]) -> dict[str, bytes]:
    """The golden bundle's files after a change of the arrays of one."""
    contents = prepare()[1]
    arrays = read_arrays(contents[file], Path(file))
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return {**contents, file: buffer.getvalue()}


def refused(contents: dict[str, bytes], words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        opened(contents)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "file, member",
    [
        ("tables.npz", "gain"),
        ("tables.npz", "y_lengths"),
        ("exact.npz", "layer0_bias"),
        ("exact.npz", "ones"),
        ("golden.npz", "z0"),
    ],
)
def test_members_that_are_no_arrays(file: str, member: str) -> None:
    """Without the suffix, or without NumPy's magic, NumPy hands out bytes."""
    contents = prepare()[1]
    for name, data in ((member, b"raw"), (f"{member}.npy", b"raw"), (f"{member}.npy", b"")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(contents[file])) as source, zipfile.ZipFile(buffer, "w") as target:
            for entry in source.infolist():
                if entry.filename == f"{member}.npy":
                    target.writestr(name, data)
                else:
                    target.writestr(entry, source.read(entry))
        refused({**contents, file: buffer.getvalue()}, "no array of numbers|not a readable array file")


GOLDEN: dict[str, Callable[[Arrays], object]] = {
    "no z": lambda a: a.pop("z0"),
    "no scale indexes": lambda a: a.pop("scale_index0"),
    "no means": lambda a: a.pop("mean1"),
    "none at all": lambda a: [a.pop(name) for name in list(a)] and a.update(x=np.zeros(1)),
    "a name that is none": lambda a: a.update(zoo=np.zeros(1)),
    "text": lambda a: a.update(z0=np.array(["a"])),
    "no numbers": lambda a: a.update(z0=np.full((1, 4, 1, 1), np.nan)),
    "beyond the limit": lambda a: a["z0"].fill(128),
    "the least number": lambda a: a.update(z0=np.full((1, 4, 1, 1), -(2**63))),
    "another type of scale index": lambda a: a.update(scale_index0=a["scale_index0"].astype(np.int64)),
    "another type of mean": lambda a: a.update(mean0=a["mean0"].astype(np.float64)),
    "means that are no numbers": lambda a: a["mean0"].fill(np.inf),
    "another rank": lambda a: a.update(z0=a["z0"][0]),
    "two files at once": lambda a: a.update(z0=np.repeat(a["z0"], 2, 0)),
    "nothing in it": lambda a: a.update(z0=a["z0"][:, :, :0]),
    "as large as a city": lambda a: a.update(z0=np.zeros((1, 4, 65, 64), np.int8)),
    "too many": lambda a: a.update({f"z{i}": a["z0"] for i in range(70)}),
}


@pytest.mark.parametrize("what", GOLDEN)
def test_golden_vectors_are_validated_before_anything_runs(what: str) -> None:
    refused(changed("golden.npz", GOLDEN[what]), "golden vector|no array of numbers")


EXACT: dict[str, Callable[[Arrays], object]] = {
    "a constant of 2^63": lambda a: a.update(ones=np.asarray(np.uint64(2**63))),
    "a constant of 2^24": lambda a: a.update(
        ones=np.asarray(2**24), layer0_weight=np.pad(a["layer0_weight"], ((0, 0), (0, 1), (0, 0), (0, 0)))
    ),
    "another number of channels": lambda a: a.update(layer0_weight=a["layer0_weight"][:, :2]),
    "rows that no table has": lambda a: a.update(
        scale_table=np.full(1 + max(255, int(a["layer2_high"].max())), 255, np.uint8)
    ),
    "a limit of 2^15": lambda a: a.update(input_limit=np.asarray(2**15)),
}


@pytest.mark.parametrize("what", EXACT)
def test_an_exact_network_that_fits_nothing_is_refused(what: str) -> None:
    refused(changed("exact.npz", EXACT[what]), "exact network|exact.npz")


def layer(weight: np.ndarray, low: int, high: int, shift: int) -> ExactLayer:
    n = len(weight)
    ends = [np.full(n, value, np.int32) for value in (low, high)]
    return ExactLayer(weight, np.zeros(n, np.int32), np.full(n, shift, np.int8), *ends)


@pytest.mark.parametrize("power", [24, 33, 34, 35])
def test_a_proof_does_not_wrap(power: int) -> None:
    """Weights that sum to 2^34 times values of 2^30 are 2^64, which is 0 in 64 bits: the proof said "at most 0"."""
    whole, rest = divmod(2**power, 32767)
    weight = np.full((1, whole + 1, 1, 1), 32767, np.int16)
    weight[0, -1] = rest
    low, high = np.zeros(whole + 1, np.int64), np.full(whole + 1, 2**30, np.int64)
    assert layer(weight, 0, 9, 24).accumulator_bounds(low, high).tolist() == [2 ** (power + 30)]
    if power == 24:  # a network of it, whose first layer gives such values
        first = layer(np.ones((whole + 1, 1, 1, 1), np.int8), 0, 2**30, -24)
        with pytest.raises(BundleError, match=f"h_s/conv1 can sum to {2**54}; fp32 is exact below 2\\^24"):
            ExactNetwork.from_arrays(ExactNetwork((first, layer(weight, 0, 9, 24)), 1).to_arrays())


def test_bounds_below_the_limit_are_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        weight = rng.integers(-128, 128, (3, 4, 3, 3)).astype(np.int8)
        bias = rng.integers(-(2**20), 2**20, 3).astype(np.int32)
        ends = [np.full(3, v, np.int32) for v in (0, 9)]
        one = ExactLayer(weight, bias, np.zeros(3, np.int8), *ends)
        low, high = -rng.integers(0, 200, 4), rng.integers(0, 200, 4)
        expected = []
        for o in range(3):
            ends_of = [(int(w) * int(low[i]), int(w) * int(high[i]), 0) for i in range(4) for w in weight[o, i].flat]
            top = sum(map(max, ends_of)) + max(int(bias[o]), 0)
            expected.append(max(top, -sum(map(min, ends_of)) - min(int(bias[o]), 0)))
        assert one.accumulator_bounds(low, high).tolist() == expected


def test_an_archive_of_many_members_is_refused_before_it_is_listed() -> None:
    one = b"PK\1\2" + bytes(42)
    with pytest.raises(BundleError, match=f"more than {LARGEST_COUNT} arrays"):
        read_arrays(one * (LARGEST_COUNT + 1), Path("x.npz"))


def test_a_header_of_four_gigabytes_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("gain.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{" * 100)
    with pytest.raises(BundleError, match="not a readable array file"):
        read_arrays(buffer.getvalue(), Path("x.npz"))


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a graph without inputs": lambda m: m["graphs"]["h_s"].update(inputs=[]),
    "a graph without outputs": lambda m: m["graphs"]["g_s"].update(outputs=[]),
    "half a character": lambda m: m.update(context_digest="\ud800"),
    "half a character for people": lambda m: m["model"].update(note="\ud800"),
    "an architecture of two lines": lambda m: m.update(architecture="a\nb"),
    "a condition that names a folder": lambda m: m["conditions"].update({"../../x": 0.5}),
    "a graph that names a folder": lambda m: m["graphs"].update({"/folder/x": m["graphs"]["g_s"]}),
    "no number": lambda m: m["conditions"].update(human=float("nan")),
    "stages of 10^12 channels": lambda m: m.update(
        latent_channels=10**12, schedule={"band_bits": 12, "block": 1024, "stages": []}
    ),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_is_validated_whole(what: str) -> None:
    values = json.loads(prepare()[1][MANIFEST])
    MANIFESTS[what](values)
    with pytest.raises(UgicError, match="malformed manifest") as caught:
        Manifest.from_json(json.dumps(values), Path(MANIFEST))
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
