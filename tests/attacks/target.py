"""The target of fuzzing: any bytes as a file, its sections, a staged substream, a bundle's parts or a picture."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from tests.attacks.edits import Edit, edited
from tests.runtime.files import makers
from ugicm import Codec
from ugicm.runtime import additions, bitstream
from ugicm.runtime.additions import Guard, Section
from ugicm.runtime.backends import Graph
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder import container
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files import picture, profiles, sections
from ugicm.runtime.files.images import picture_bytes
from ugicm.runtime.files.picture import Picture
from ugicm.runtime.guard import Rounding
from ugicm.runtime.manifest import MANIFEST, Manifest
from ugicm.runtime.staged_coder import StagedDecoder, StagedEncoder

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
KINDS = (
    "a file",
    "a file, its checksum mended",
    "a manifest",
    "tables.npz",
    "exact.npz",
    "edits of a bundle's arrays",
    "a staged substream",
    "sections of a file",
    "a picture",
    "graphs with other answers",
    "members of a bundle's array files",
    "values of a bundle's manifest",
)
_LARGEST = 1 << 20  # pixels of a picture: larger ones take memory and show nothing more
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")


class _Sessions:
    """ONNX Runtime, each graph loaded once however many bundles hold it."""

    name = "onnxruntime (CPU)"

    def __init__(self) -> None:
        self._backend = OnnxRuntime(threads=1)
        self._graphs: dict[bytes, Graph] = {}

    def load(self, model: bytes, name: str, weights: Mapping[str, np.ndarray] | None = None) -> Graph:
        if weights:
            return self._backend.load(model, name, weights)
        if model not in self._graphs:
            self._graphs[model] = self._backend.load(model, name)
        return self._graphs[model]


@cache
def prepare() -> tuple[Codec, dict[str, bytes], tuple[bytes, ...]]:
    """The codec of a small bundle, the bytes of the bundle's files, and files of the codec."""
    bundle = Bundle.open(GOLDEN / "bundle")
    contents = {file.name: file.read_bytes() for file in sorted((GOLDEN / "bundle").iterdir())}
    files = tuple(file.read_bytes() for file in sorted(GOLDEN.glob("*.ugic")))
    return Codec(bundle, _Sessions()), contents, files


def attack(data: bytes) -> str:
    """Does with an input what its first byte says; returns how that ended: "fine" or the name of a UgicError.

    Any other exception is a fault of the runtime. So is a file that is read without complaint although writing what
    was read gives other bytes, and a picture of another size than the header's.
    """
    kind, payload = data[0] % len(KINDS), data[1:]
    codec, contents, files = prepare()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == 0:
                _decode(codec, payload)
            elif kind == 1:
                _decode(codec, _mended(payload))
            elif kind == 2:
                manifest = Manifest.from_json(payload.decode("utf-8", "replace"), Path(MANIFEST))
                _use(manifest, {name: contents.get(name, b"") for name in manifest.files}, files[2])
            elif kind == 6:
                symbols, written = _read_staged(payload)
                assert _read_staged(written)[0] == symbols, "other symbols are written than were read"
            elif kind == 7:
                _carry(files[0], payload)
            elif kind == 8:
                _read(payload)
            elif kind > 8:
                from tests.attacks import bundles

                bundles.use_changed(kind, payload)
            else:
                names = ("tables.npz", "exact.npz")
                changed = {names[kind - 3]: payload} if kind < 5 else edited({n: contents[n] for n in names}, payload)
                manifest = Manifest.from_json(contents[MANIFEST].decode(), Path(MANIFEST))
                _use(manifest, {**contents, **changed}, files[2])
    except UgicError as error:
        assert "\n" not in str(error) and str(error), "an error is one line"
        return type(error).__name__
    return "fine"


def _decode(codec: Codec, data: bytes) -> None:
    stream = bitstream.parse(data)
    assert container.pack(stream) == data, "two files of one content"
    assert codec.decode(data, "machine").shape == (stream.height, stream.width, 3)


def _carry(file: bytes, payload: bytes) -> None:
    """A file with some sections, each a byte of type, two of length and so many more, decoded and written again."""
    found: dict[int, bytes] = {}
    form, at = _FORMATS[payload[0] % len(_FORMATS)] if payload else "PNG", 1
    while at + 3 <= len(payload):
        length = int.from_bytes(payload[at + 1 : at + 3], "little")
        found[max(1, payload[at])] = payload[at + 3 : at + 3 + length]
        at += 3 + length
    carried = tuple(additions.Section(kind, data) for kind, data in sorted(found.items()))
    data = container.pack(replace(bitstream.parse(file), sections=carried))
    stream = bitstream.parse(data)
    assert container.pack(stream) == data, "two files of one content"
    extras = sections.extras_of(stream)
    assert extras.alpha is None or extras.alpha.shape == (stream.height, stream.width)
    pixels = np.zeros((stream.height, stream.width, 3), np.uint8)
    view = Picture(pixels, extras.alpha, extras.icc, extras.exif, extras.xmp)
    assert picture_bytes(view, form, Path("view"))


def _read(payload: bytes) -> None:
    with patch.object(picture, "MAX_PIXELS", _LARGEST):
        found = picture.read_picture(payload[1:], keep_profile=bool(payload[0] & 1) if payload else False)
    height, width, channels = found.pixels.shape
    assert channels == 3 and found.pixels.dtype == np.uint8
    assert found.alpha is None or found.alpha.shape == (height, width)
    tiny = bitstream.Bitstream(bytes(8), 1, width, height, b"", (b"",), 0)
    back = bitstream.parse(sections.attach(container.pack(tiny), found))
    alpha = sections.extras_of(back).alpha
    assert (alpha is None) == (found.alpha is None) and (alpha is None or (alpha == found.alpha).all())


def _read_staged(data: bytes) -> tuple[list[int], bytes]:
    """Two bytes of a guard, then a substream of three stages, each of whose indexes depend on the symbols before it.

    Returns the symbols, and the same data as an encoder writes it.
    """
    guard, tables = Guard(8 + sum(data[:1]) % 13, 32 + sum(data[1:2])), prepare()[0].bundle.y_tables
    rounding, decoder = Rounding(guard, tables.lengths == 0), StagedDecoder(data[2:], tables, "x.ugic")
    encoder, symbols = StagedEncoder(tables), np.zeros(300, np.int32)
    found: list[int] = []
    for _ in range(3):
        s = _indexes(symbols)
        shifts = decoder.shifts(-(-s.size // guard.block))
        rows = rounding.rows(s, shifts, "x.ugic")
        symbols = decoder.symbols(rows)
        found += symbols.tolist()
        encoder.shifts(shifts)
        encoder.symbols(symbols, rows)  # refuses a symbol of a skipped row
    decoder.finish()
    return found, data[:2] + encoder.finish()


def _indexes(before: np.ndarray) -> np.ndarray:
    return (30 + 36 * np.sin(0.37 * np.arange(before.size) + before / 100)).astype(np.float32)


def opened(contents: Mapping[str, bytes], manifest: Manifest | None = None) -> Bundle:
    """A bundle of files in memory whose author knows how to compute a codec id."""
    manifest = manifest or Manifest.from_json(contents[MANIFEST].decode(), Path(MANIFEST))
    try:
        return Bundle(Path("bundle"), manifest, contents)
    except UgicError as error:
        if not (found := re.search(r"its contents make ([0-9a-f]{16})", str(error))):
            raise
        return Bundle(Path("bundle"), replace(manifest, codec_id=found[1]), contents)


def _use(manifest: Manifest, contents: dict[str, bytes], file: bytes) -> None:
    """Decodes and encodes with a bundle."""
    bundle = opened(contents, manifest)
    codec = Codec(bundle, prepare()[0].backend)
    stream = replace(bitstream.parse(file), codec_id=bundle.codec_id)
    with suppress(UgicError):  # other tables, other symbols; encoding has faults of its own to show
        codec.decode(container.pack(stream), 0.5 if codec.conditions else None)
    _decode(codec, codec.encode(np.full((30, 70, 3), 99, np.uint8), 1))


def _mended(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


def _staged_seed(bits: int, block: int) -> bytes:
    tables = prepare()[0].bundle.y_tables
    rounding, encoder = Rounding(Guard(bits, block), tables.lengths == 0), StagedEncoder(tables)
    before = np.zeros(300, np.int32)
    for stage in range(3):
        s = _indexes(before)
        shifts = rounding.shifts(s)
        rows = rounding.rows(s, shifts)
        before = np.where(tables.lengths[rows] > 0, (np.arange(s.size) * 7 + stage) % 5 - 2, 0).astype(np.int32)
        before[np.argmax(rows)] = 1000 * stage
        encoder.shifts(shifts)
        encoder.symbols(before, rows)
    return bytes([bits - 8, block - 32]) + encoder.finish()


def seeds() -> list[bytes]:
    """Inputs to start from: of each kind a whole one, small."""
    codec, contents, files = prepare()
    small = []
    for name in ("tables.npz", "exact.npz"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(contents[name])) as source, zipfile.ZipFile(buffer, "w") as target:
            for entry in source.infolist():
                if entry.file_size < 600:
                    target.writestr(entry.filename, source.read(entry))
        small.append(buffer.getvalue())
    edit = bytes([3, 0, 1, 0, 0, 0, 1, 0])
    found = [bytes([0]) + file for file in files[::2]] + [bytes([1]) + file[:-4] for file in files[::2]]
    stream = bitstream.parse(files[2])
    carried = (Section(additions.ALPHA, b"a"), Section(additions.ICC_PROFILE, b"icc"))
    for guard, extra in ((Guard(12, 1024), ()), (None, carried), (Guard(8, 32), carried)):
        packed = container.pack(replace(stream, guard=guard, sections=extra))
        found += [bytes([0]) + packed, bytes([1]) + packed[:-4]]
    found += [b"\6" + _staged_seed(12, 256), b"\6" + _staged_seed(8, 32)]
    manifest = json.dumps(json.loads(contents[MANIFEST]), separators=(",", ":"))
    found += [b"\2" + manifest.encode(), b"\3" + small[0], b"\4" + small[1]]
    found += [bytes([5, array]) + edit[1:] for array in range(27)]
    found += [bytes([5, array, operation]) + edit[2:] for array in (2, 7) for operation in Edit]
    rng = np.random.default_rng(9)
    found += [bytes([kind]) + rng.bytes(48) for kind in (9, 10, 11) for _ in range(8)]
    return found + _seeds_of_sections(bitstream.parse(files[0])) + [b"\x08" + data for data in _seeds_of_pictures()]


def _seeds_of_sections(stream: bitstream.Bitstream) -> list[bytes]:
    exif = Image.Exif()
    exif[271], exif[274] = "A maker", 6
    alpha = np.arange(stream.width * stream.height).reshape(stream.height, stream.width).astype(np.uint8)
    profile = profiles.make_profile("Display P3", profiles.P3, profiles.SRGB_CURVE)
    bodies = [(1, sections.encode_alpha(alpha)), (2, profile), (4, exif.tobytes()[6:]), (6, b"<x/>"), (8, b"new")]
    whole = [bytes([kind]) + len(body).to_bytes(2, "little") + body for kind, body in bodies]
    choices = [*([part] for part in whole), [whole[1], whole[2], whole[3]], whole]
    return [bytes([7, form]) + b"".join(parts) for form, parts in enumerate(choices)]


def _seeds_of_pictures() -> list[bytes]:
    profile = profiles.make_profile("Display P3", profiles.P3, profiles.SRGB_CURVE)
    exif = Image.Exif()
    exif[271], exif[274] = "A maker", 6
    deep = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1300
    found = [
        makers.png(deep, makers.iccp(profile), transparent=bytes(6)),
        makers.png(deep, makers.chunk(b"cICP", bytes([9, 16, 0, 1])), makers.chunk(b"eXIf", exif.tobytes()[6:])),
        makers.png(deep[..., 0], makers.gama(1.0)),
        makers.png(deep[..., :2]),
        makers.tiff(deep, ">", more={34675: (7, profile), 274: (3, b"\0\6")}),
        makers.tiff(deep[..., 0], photometric=0),
        makers.tiff(deep.astype(np.float32)),
    ]
    image = Image.fromarray((deep >> 8).astype(np.uint8)).resize((16, 16))
    for form in ("JPEG", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000", "QOI", "ICO", "PPM"):
        buffer = io.BytesIO()
        options = {"exif": exif.tobytes(), "icc_profile": profile} if form in ("JPEG", "WEBP", "AVIF") else {}
        image.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return [bytes([i & 1]) + data for i, data in enumerate(found)]
