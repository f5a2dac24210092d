"""Bundles by somebody who computes every hash anew: graphs that answer with something else, arrays, manifests.

`python -m tests.attacks.hostile --tries 20000` makes that many out of random bytes, in processes of limited memory and
time, and prints how they ended.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tests.attacks import graphs

VARIABLE = "UGICM_ATTACKED"
"""Names more bundles to change beside the golden one, as PATH names folders; where it is not set, they are made."""
NPZ = ("tables.npz", "exact.npz", "golden.npz")
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 255, 4097, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.5, 1e999, -1e999, float("nan"), "",
    "x", "\ud800", "\n", "\0", "x" * 5000, "../x", "/x", "9" * 5000, [], {}, [[]], [0, 1], ["x"], {"x": 1}, "both",
    "checkerboard", "g_s", "z", "y_hat", "index", "wavefront", "int8",
)  # fmt: skip
_TYPES = (
    "<f4", "<f8", "<f2", "|i1", "|u1", "<i2", ">i2", "<i4", ">i4", "<u4", "<i8", "<u8", "|b1", "<U1", "|S3", "<c8",
    "<M8[s]", "|V3", "|V0", "|O",
)  # fmt: skip
_SHAPES = ("()", "(0,)", "(1,)", "(2**62,)", "(-1,)", "(2**40, 0)", "(1, 4, 1, 1)", "(3, 3)", "(1,) * 40", "'x'", "(")
_NUMBERS = (np.nan, np.inf, -np.inf, 0, -1, 1, 127, 255, 2.0**24, 2.0**31, 2.0**34, 2.0**63, 1e38, -1e38)


class Draws:
    """Choices made by bytes, 0 when there are none left."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, count: int) -> int:
        size = 1 if count <= 256 else 4
        piece = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(piece, "little") % max(1, count)

    def one(self, choices: Any) -> Any:
        return choices[self.below(len(choices))]


def graph(contents: Mapping[str, bytes], draws: Draws) -> dict[str, bytes]:
    """One graph, or two, with another answer; or a graph in another's place, or with a few other bytes."""
    changed = dict(contents)
    names = sorted(name for name in contents if name.endswith(".onnx"))
    for _ in range(1 + (draws.below(8) == 7)):
        name, how = draws.one(names), draws.below(16)
        if how == 15:
            changed[name] = contents[draws.one(names)]
        elif how == 14:
            data = bytearray(changed[name])
            for _ in range(1 + draws.below(4)):
                data[draws.below(len(data))] = draws.below(256)
            changed[name] = bytes(data)
        else:
            with suppress(DecodeError):  # what the change before made is no graph
                changed[name] = graphs.rewritten(changed[name], draws.below(4), draws.one(graphs.names()))
    return changed


def arrays(contents: Mapping[str, bytes], draws: Draws) -> dict[str, bytes]:
    """Members of an array file with other names, types, shapes, headers, numbers; missing, doubled or new ones."""
    file = draws.one([name for name in NPZ if name in contents])
    with zipfile.ZipFile(io.BytesIO(contents[file])) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    for _ in range(1 + draws.below(3)):
        if not members:
            break
        at = draws.below(len(members))
        name, data = members[at]
        members[at : at + 1] = _MEMBERS[draws.below(len(_MEMBERS))](name, data, draws)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    packed = bytearray(buffer.getvalue())
    if draws.below(8) == 7:
        for _ in range(1 + draws.below(3)):
            packed[draws.below(len(packed))] = draws.below(256)
    return {**contents, file: bytes(packed)}


Members = list[tuple[str, bytes]]


def _npy(descr: str, shape: str, data: bytes, order: bool = False, version: int = 1) -> bytes:
    head = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + size + head + data


def _array(data: bytes) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception:  # what an earlier change left
        return np.zeros(1, np.int32)


def _written(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _numbers(name: str, data: bytes, draws: Draws) -> Members:
    array = np.array(_array(data))
    if array.size and array.dtype.kind in "iuf":
        first = draws.below(array.size)
        stop = first + 1 if draws.below(2) else array.size
        with np.errstate(all="ignore"):
            array.reshape(-1)[first:stop] = np.asarray(draws.one(_NUMBERS)).astype(array.dtype)
    return [(name, _written(array))]


def _shaped(name: str, data: bytes, draws: Draws) -> Members:
    array = _array(data)
    how = draws.below(6)
    if how == 0:
        array = array[None]
    elif how == 1:
        array = array.reshape(-1)
    elif how == 2:
        array = array.T
    elif how == 3 and array.ndim:
        array = array[: draws.below(len(array) + 1)]
    elif how == 4 and array.ndim:
        array = np.concatenate([array, array], draws.below(array.ndim))
    elif array.ndim > 1:
        array = array.swapaxes(0, 1)
    return [(name, _written(array))]


def _typed(name: str, data: bytes, draws: Draws) -> Members:
    array, kind = _array(data), np.dtype(draws.one([t for t in _TYPES if t not in ("|O", "|V0")]))
    with np.errstate(all="ignore"):
        try:
            return [(name, _written(array.astype(kind)))]
        except (TypeError, ValueError):
            return [(name, _written(np.zeros(array.shape, kind)))]


_MEMBERS: tuple[Callable[[str, bytes, Draws], Members], ...] = (
    _numbers,
    _numbers,
    _shaped,
    _typed,
    lambda name, data, draws: [],
    lambda name, data, draws: [(name, data), (name, data[: draws.below(len(data) + 1)])],
    lambda name, data, draws: [(name.removesuffix(".npy"), data)],
    lambda name, data, draws: [(name, b"raw")],
    lambda name, data, draws: [(name, data), (draws.one(("x.npy", "z9.npy", "layer9_weight.npy", "é.npy")), data)],
    lambda name, data, draws: [(draws.one(("z0.npy", "gain.npy", "layer0_weight.npy", "../x.npy", ".npy")), data)],
    lambda name, data, draws: [(name, _npy(draws.one(_TYPES), draws.one(_SHAPES), data[:64], bool(draws.below(2))))],
    lambda name, data, draws: [(name, _npy("<i4", "(1,)", b"\0" * 4, version=2 + draws.below(3)))],
    lambda name, data, draws: [(name, b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + data)],
    lambda name, data, draws: [(name, _npy("<i4", "(" + "1," * 5000 + ")", b""))],
    lambda name, data, draws: [(name, data[: draws.below(len(data) + 1)])],
)


def manifest(contents: Mapping[str, bytes], draws: Draws) -> str:
    """The text of a manifest with one to three other values, anywhere."""
    whole = json.loads(contents["manifest.json"])
    for _ in range(1 + draws.below(3)):
        at, key = whole, None
        for _ in range(1 + draws.below(5)):
            keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draws.one(keys)
            if not isinstance(at[key], dict | list) or not at[key]:
                break
            if draws.below(4) == 3:
                break
            at, key = at[key], None
        if key is None:
            continue
        how = draws.below(8)
        if how == 7:
            del at[key]
        elif how == 6 and isinstance(at, dict):
            at[str(draws.one(_VALUES))[:300]] = at[key]
        elif how == 5 and isinstance(at, list):
            at.append(at[key])
        else:
            at[key] = deepcopy(draws.one(_VALUES))  # a later change may go into it
    text = json.dumps(whole)
    return text[: draws.below(len(text))] if draws.below(64) == 63 else text


# ---- many of them, in processes


def _run(number: int, seed: int, report: int) -> None:
    """One try, which the seed and its number decide; a byte tells that it ended well, a line what did not."""
    from tests.attacks.bundles import ARRAYS, GRAPHS, MANIFESTS
    from tests.attacks.target import attack

    data = bytes([(GRAPHS, ARRAYS, MANIFESTS)[number % 3]]) + np.random.default_rng([seed, number]).bytes(48)
    signal.alarm(60)
    try:
        end = attack(data)
    except BaseException as error:
        where = "".join(traceback.format_exception(error)[-3:]).replace("\n", " | ")
        end = f"FOUND {type(error).__name__} by {data.hex()}: {where[:1500]}"
    signal.alarm(0)
    os.write(report, f"{number} {end}\n".encode("utf-8", "replace"))


def _share(tries: range, seed: int, memory: int) -> tuple[list[str], int, int]:
    """What a process of limited memory said of each try, how it ended, and its largest memory in MB."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        for number in tries:
            _run(number, seed, writing)
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        said = lines.read().splitlines()
    _, status, used = os.wait4(child, 0)
    return said, status, used.ru_maxrss // 1024


def main(arguments: list[str] | None = None) -> int:
    """Prints how all tries ended; 1 where one ended in anything but an error of ours, or hung, or took too much."""
    p = argparse.ArgumentParser(prog="python -m tests.attacks.hostile", description=__doc__)
    p.add_argument("--tries", type=int, default=20_000)
    p.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first; the seed and it decide a try"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--share", type=int, default=1000, help="tries of a process")
    p.add_argument("--memory", type=int, default=4096, metavar="MB", help="address space of a process")
    p.add_argument("--log", type=Path, default=Path("hostile.log"), help="where findings go")
    args = p.parse_args(arguments)
    if VARIABLE in os.environ:
        return _attack(args)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "tests.attacks.small_bundles", folder], check=True)
        os.environ[VARIABLE] = os.pathsep.join(str(path) for path in sorted(Path(folder).iterdir()))
        return _attack(args)


def _attack(args: argparse.Namespace) -> int:
    import tests.attacks.bundles  # noqa: F401 - once, before the forks

    logging.disable()
    ends: Counter[str] = Counter()
    found, largest, started = 0, 0, time.monotonic()
    with args.log.open("w") as log:
        at = args.first
        while at < args.first + args.tries:
            tries = range(at, min(at + args.share, args.first + args.tries))
            said, status, used = _share(tries, args.seed, args.memory << 20)
            largest = max(largest, used)
            for line in said:
                end = line.split(" ", 1)[1]
                if end.startswith("FOUND"):
                    found += 1
                    print(line, file=log, flush=True)
                ends[end.split(" ")[0] if not end.startswith("FOUND") else end.split(" ")[1]] += 1
            at += len(said)
            if status:  # by its alarm, a crash of a library, or no memory left
                found += 1
                ends[f"ended by signal {status & 127}, status {status >> 8}"] += 1
                print(f"{at} DIED with {status}", file=log, flush=True)
                at += 1
            print(f"{at} tries, {found} findings, {largest} MB, {time.monotonic() - started:.0f} s", flush=True)
    for end, count in ends.most_common():
        print(f"{count:>7} {end}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
