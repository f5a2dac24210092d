"""The page's modules, asked through node: the same symbols, the same refusals in the same words as the runtime."""

from __future__ import annotations

import base64
import json
import math
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.attacks.test_bitstreams import forged
from tests.reference.decoder import RangeDecoder, Refused
from ugicm.adapters.web.library import node_folders
from ugicm.adapters.web.site import STATIC
from ugicm.runtime import bitstream, range_coder
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.encoder.container import write_varint
from ugicm.runtime.errors import BundleError, UgicError
from ugicm.runtime.files import sections
from ugicm.runtime.tables import TOTAL, Tables

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "golden/v1"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node: the page's modules are not tested on their own")


def ask(questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ask.mjs answers."""
    assert NODE
    done = subprocess.run(
        [NODE, str(HERE / "ask.mjs"), str(STATIC)],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def told(error: UgicError) -> dict[str, str]:
    return {"name": type(error).__name__, "message": str(error)}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def row_of(rng: np.random.Generator, length: int, concentration: float) -> list[int]:
    """`length` integers of at least 1 that sum to 2**24; a small concentration makes extreme skew."""
    shares = rng.gamma(concentration, size=length) + 1e-300
    row = 1 + np.floor(shares / shares.sum() * (TOTAL - length)).astype(np.int64)
    row[rng.integers(length)] += TOTAL - row.sum()
    return [int(n) for n in row]


def tables_of(rows: list[list[int]], offsets: list[int]) -> tuple[Tables, dict[str, Any]]:
    """Tables, and as a question holds them."""
    flat = [f for row in rows for f in row]
    lengths = [len(row) for row in rows]
    tables = Tables.from_arrays(np.array(flat, np.uint32), np.array(lengths, np.int32), np.array(offsets, np.int32))
    return tables, {"frequencies": flat, "lengths": lengths, "offsets": offsets}


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """One byte changed, bytes cut off, or bytes added."""
    kind = rng.integers(4)
    if kind == 0 and data:
        at = int(rng.integers(len(data)))
        return data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
    if kind == 1:
        return data[: int(rng.integers(len(data) + 1))]
    return data + bytes(rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8)) if kind == 2 else data


@needs_node
def test_streams_give_the_same_symbols_or_the_same_words() -> None:
    rng = np.random.default_rng(7)
    questions: list[dict[str, Any]] = []
    expected: list[dict[str, Any]] = []
    for case in range(400):
        lengths = rng.choice([0, 0, 1, 2, 3, 7, 40, 300], int(rng.integers(1, 7)))
        offsets = [int(n) for n in rng.choice([-40, 0, 3, -(2**31), 2**31 - 400], lengths.size)]
        rows_of_table = [row_of(rng, int(n), rng.choice([0.02, 1.0, 50.0])) if n else [] for n in lengths]
        tables, table = tables_of(rows_of_table, offsets)
        rows = rng.integers(0, lengths.size, int(rng.integers(0, 200))).astype(np.uint8)
        near = tables.offsets.astype(np.int64)[rows] + rng.integers(-2, 42, rows.size)
        symbols = np.where(rng.random(rows.size) < 0.9, near, rng.integers(-(2**31), 2**31, rows.size))
        symbols = np.where(tables.lengths[rows] == 0, 0, symbols.clip(-(2**31), 2**31 - 1)).astype(np.int32)
        streams = range_encoder.encode(symbols, rows, tables, int(rng.integers(1, 5)))
        if case % 2:
            streams = [damaged(rng, stream) for stream in streams]
        name = f"file {case}.ugic"
        questions.append(
            {"kind": "decode", "streams": [*map(text, streams)], "rows": rows.tolist(), "table": table, "name": name}
        )
        try:
            expected.append({"answer": range_coder.decode(streams, rows, tables, name).tolist()})
        except UgicError as error:
            expected.append({"error": told(error)})
    tables, table = tables_of([[TOTAL]], [0])  # every symbol is escaped
    for section in ("808080808001", "ffffffff1f", "ffffffff0f", "8000", "0505", "", "80", "07"):
        stream = bytes([len(section) // 2]) + bytes.fromhex(section)
        questions.append({"kind": "decode", "streams": [text(stream)], "rows": [0], "table": table, "name": "escape"})
        try:
            expected.append({"answer": range_coder.decode([stream], np.zeros(1, np.uint8), tables, "escape").tolist()})
        except UgicError as error:
            expected.append({"error": told(error)})
    assert ask(questions) == expected
    words = {e["error"]["message"].partition(" of ")[2][2:].split(";")[0] for e in expected if "error" in e}
    assert len(words) > 6, words  # most rules of a substream were broken somewhere


@needs_node
def test_the_state_is_exact_where_a_double_is_not() -> None:
    """Points at, just below and just above an entry's bound: there the estimated quotient is off by one."""
    rng = np.random.default_rng(11)
    scale = ((1 << 64) - 1) >> 24
    questions, expected = [], []
    for _ in range(600):
        row = row_of(rng, int(rng.choice([2, 5, 64, 3000])), rng.choice([0.05, 1.0]))
        bound = int(rng.choice([0, *np.cumsum(row)]))
        point = min(max(bound * scale + int(rng.integers(-2, 3)), 0), (1 << 64) - 1)
        words = [point >> 32, point & 0xFFFFFFFF, *map(int, rng.integers(0, 2**32, 30))]
        coder, entries = RangeDecoder(words), []
        try:
            for _ in range(40):
                entries.append(coder.decode(row))
        except Refused:
            pass
        questions.append({"kind": "entries", "words": words, "frequencies": row, "count": 40})
        difference = coder.point - coder.lower & (1 << 64) - 1
        expected.append({"answer": {"entries": entries, "difference": str(difference)}})
    assert ask(questions) == expected


@needs_node
def test_files_are_read_or_refused_in_the_runtimes_words() -> None:
    whole = (GOLDEN / "50x70-q2.ugic").read_bytes()
    rng = np.random.default_rng(5)
    files = [whole, b"", *(whole[:n] for n in range(60)), *(damaged(rng, whole) for _ in range(150))]
    files += [whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(24) for byte in (0, 1, 0x80, 0xFF)]
    files += [data for _, data in forged()]
    second = list(second_version())
    files += second + [damaged(rng, data) for data in second if len(data) < 1000 for _ in range(5)]
    questions = [{"kind": "parse", "data": text(data), "name": f"{i}.ugic"} for i, data in enumerate(files)]
    for i, (data, found) in enumerate(zip(files, ask(questions), strict=True)):
        try:
            b = bitstream.parse(data, f"{i}.ugic")
        except UgicError as error:
            assert found == {"error": told(error)}
            continue
        assert found["answer"] == {
            "version": b.version,
            "codecId": b.codec_id.hex(),
            "quality": b.quality,
            "width": b.width,
            "height": b.height,
            "symbolChecksum": b.symbol_checksum,
            "z": b.z.hex(),
            "y": [stream.hex() for stream in b.y],
            "guard": b.guard and {"bandBits": b.guard.band_bits, "block": b.guard.block},
            "sections": [[section.type, section.data.hex()] for section in b.sections],
        }


def second_version() -> Iterator[bytes]:
    """Files of version 2, sound and not: the fields that it adds, behind those of a golden file."""
    whole = (GOLDEN / "50x70-q2.ugic").read_bytes()
    head, rest = b"UGIC\2" + whole[5:16], whole[16:-4]
    assert len(bitstream.parse(whole).y) == 1
    varint = write_varint

    def sections(*found: tuple[int, bytes]) -> bytes:
        return varint(len(found)) + b"".join(varint(t) + varint(len(data)) + data for t, data in found)

    guard = bytes([12]) + varint(1024)
    known = sections((1, b"png"), (2, b"icc"), (4, b"exif"), (6, b"<x/>"))
    bodies = [varint(flags) + guard + known for flags in (0, 1, 2, 3, 4, 7, 2**32 - 1)]
    bodies += (bytes([1, bits]) + varint(block) for bits in (7, 8, 20, 21) for block in (31, 32, 2**20, 2**20 + 1))
    bodies += (bytes([2]) + sections(*found) for found in ([], [(8, b"new")], [(1, b""), (2**32 - 2, b"x")]))
    bodies += (bytes([2]) + sections((kind, b"")) for kind in (0, 3, 5, 7, 2**32 - 1))
    bodies += (bytes([2]) + sections((a, b"a"), (b, b"b")) for a, b in ((2, 2), (4, 2), (1, 0), (2, 4)))
    bodies += (bytes([2]) + sections(*((2 * i + 2, b"") for i in range(n))) for n in (64, 65))
    bodies.append(bytes([2]) + varint(1) + varint(2) + varint(2**32 - 1))
    bodies += (bytes([2]) + sections((2, bytes(2**23)), (4, bytes(n))) for n in (2**23, 2**23 + 1))
    for body in bodies:
        data = head + body + rest
        yield data + zlib.crc32(data).to_bytes(4, "little")


@needs_node
def test_opacity_is_read_or_refused_as_the_runtime_does() -> None:
    """Every filter of PNG, both depths, chunks cut anywhere; then damage, and sizes that lie."""
    rng = np.random.default_rng(9)
    cases = []
    for height, width in ((1, 1), (1, 9), (7, 8), (13, 21), (64, 33)):
        ramp = np.add.outer(np.arange(height), np.arange(width))
        for alpha in (ramp * 5 % 256, rng.integers(0, 256, ramp.shape), (ramp % 3 > 0) * 255):
            cases.append((sections.encode_alpha(alpha.astype(np.uint8)), width, height))
        rows = np.c_[rng.integers(0, 5, height), rng.integers(0, 256, (height, width))].astype(np.uint8)
        data = zlib.compress(rows.tobytes())
        cases.append((png((width, height, 8, 0, 0, 0, 0), data[:9], data[9:]), width, height))
        cases.append((png((width, height, 8, 0, 0, 0, 1), data), width, height))
    rows[0, 0] = 5
    cases += [(png((33, 64, 8, 0, 0, 0, 0), zlib.compress(rows.tobytes())), 33, 64), (cases[0][0], 2, 1), (b"", 1, 1)]
    sound = len(cases)
    for _ in range(40):
        data, width, height = cases[int(rng.integers(8, 12))]
        at = int(rng.integers(len(data)))
        cases.append((data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :], width, height))
        cases.append((data[:at], width, height))
    questions = [{"kind": "opacity", "data": text(d), "width": w, "height": h, "name": "a"} for d, w, h in cases]
    refused = 0
    for i, ((data, width, height), found) in enumerate(zip(cases, ask(questions), strict=True)):
        try:
            expected: dict[str, Any] = {"answer": sections.decode_alpha(data, width, height, "a").ravel().tolist()}
        except UgicError as error:
            expected = {"error": told(error)}
        refused += "error" in expected
        if (
            found != expected
        ):  # the page checks every checksum of a damaged datastream, Pillow not that of the last chunks
            assert i >= sound and "its transparency cannot be decoded" in found["error"]["message"]
    assert refused > 40


def png(head: tuple[int, ...], *parts: bytes) -> bytes:
    """A PNG datastream of IHDR's numbers and the contents of IDAT chunks."""
    chunks = [(b"IHDR", struct.pack(">2I5B", *head)), *((b"IDAT", part) for part in parts), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@needs_node
def test_tables_are_checked_in_the_runtimes_words() -> None:
    cases: list[tuple[list[int], list[int], list[int]]] = [
        ([TOTAL - 5, 5], [2], [0]),
        ([TOTAL - 5, 4], [2], [0]),
        ([TOTAL, 0], [2], [0]),
        ([TOTAL], [1, 0], [0]),
        ([TOTAL], [2], [0]),
        ([TOTAL - 2, 1, 1], [3], [2**31 - 1]),
        ([], [-1], [0]),
    ]
    questions = [{"kind": "tables", "frequencies": f, "lengths": n, "offsets": o} for f, n, o in cases]
    for (frequencies, lengths, offsets), found in zip(cases, ask(questions), strict=True):
        arrays = (np.array(frequencies, np.uint32), np.array(lengths, np.int32), np.array(offsets, np.int32))
        try:
            Tables.from_arrays(*arrays)
            assert math.isclose(found["answer"], -math.log2((TOTAL - 5) / TOTAL))
        except BundleError as error:
            assert found == {"error": told(error)}


@needs_node
@pytest.mark.parametrize("bundle", [GOLDEN / "bundle"], ids=["golden"])
def test_the_reference_in_javascript_gives_the_golden_vectors(bundle: Path) -> None:
    question = {"kind": "golden"} | {n: text((bundle / f"{n}.npz").read_bytes()) for n in ("exact", "golden")}
    assert ask([question]) == [{"answer": {"count": 5, "same": True}}]
    broken = question | {"golden": text((bundle / "golden.npz").read_bytes()[:-30])}
    (answer,) = ask([broken])
    assert answer["error"]["name"] == "BundleError" and "not a readable array file" in answer["error"]["message"]


def test_the_modules_types_are_right() -> None:
    compiler = next((c for place in node_folders() if (c := place / ".bin/tsc").is_file()), None)
    if compiler is None:
        pytest.skip("no TypeScript in node_modules or NODE_PATH: the page's types are not checked")
    options = "--noEmit --allowJs --checkJs --strict --skipLibCheck --target es2022 --module es2022"
    libraries = "--moduleResolution bundler --lib es2022,dom,dom.iterable,dom.asynciterable"
    files = [str(path) for path in sorted(STATIC.glob("*.js"))]
    command = [str(compiler), *options.split(), *libraries.split(), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
