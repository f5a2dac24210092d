"""The page in headless Chromium: golden files, damaged files, headers, what it shows, what it refuses."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from tests.adapters.web.page import decode, serving, watched
from tests.attacks.test_bitstreams import forged
from tests.browser import MISSING, chromium
from ugicm import Codec
from ugicm.adapters.web.library import PACKAGE, Library, found
from ugicm.adapters.web.site import site_files, write_site
from ugicm.export.write import npz_bytes
from ugicm.runtime import bitstream
from ugicm.runtime.additions import Guard, Section
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder import container
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files.sections import encode_alpha

GOLDEN = Path(__file__).parents[2] / "golden/v1"
FILES = {path.name: path.read_bytes() for path in sorted(GOLDEN.glob("*.ugic"))}
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
BETAS = (0, 0.3, 1)
LIBRARY = found()

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason=MISSING),
    pytest.mark.skipif(LIBRARY is None, reason=f"no {PACKAGE} in node_modules or NODE_PATH: the page is not tested"),
]


def written(
    folder: Path,
    library: Library | None = LIBRARY,
    examples: dict[str, bytes] | None = None,
    bundle: Path = GOLDEN / "bundle",
) -> Path:
    """A site of the golden bundle, or another."""
    assert library
    write_site(folder, site_files(Bundle.open(bundle), library, examples))
    return folder


@pytest.fixture(scope="module")
def golden() -> Codec:
    return Codec.from_bundle(GOLDEN / "bundle", threads=1)


def check_symbols_and_pictures(answer: dict[str, Any], golden: Codec) -> None:
    results = {result["name"]: result for result in answer["results"]}
    for name, data in FILES.items():
        assert results[name]["checksum"] == EXPECTED[name]["symbol_checksum"]
        check_pictures(results[name], golden, data)


def check_pictures(result: dict[str, Any], codec: Codec, data: bytes) -> None:
    """Within one level of native, at every preference."""
    for beta in BETAS:
        native = codec.decode(data, float(beta))
        pixels = np.frombuffer(base64.b64decode(result["pictures"][str(beta)]), np.uint8).reshape(*native.shape[:2], 4)
        assert np.abs(pixels[..., :3].astype(int) - native).max() <= 1
        assert pixels[..., 3].min() == 255


def test_golden_files_on_one_thread_without_headers_and_damaged_ones(tmp_path: Path, golden: Codec) -> None:
    bad = {f"bad {i}.ugic": data for i, (_, data) in enumerate(forged())}
    flipped = bytearray(FILES["200x90-q2.ugic"])
    flipped[200] ^= 4
    bad |= {"flipped.ugic": bytes(flipped), "short.ugic": bytes(flipped)[:-9], "none.ugic": b"GIF89a"}
    answer = decode(written(tmp_path / "site"), {**FILES, **bad}, BETAS, threads=1, isolated=False)
    assert (answer["isolated"], answer["threads"], answer["vectors"], answer["reference"]) == (False, 1, 5, False)
    check_symbols_and_pictures(answer, golden)
    refused = set()
    for result in answer["results"][len(FILES) :]:
        name = result["name"]
        try:
            golden.decode(bad[name], name=name)
            assert "error" not in result
        except UgicError as error:
            assert result["error"] == {"name": type(error).__name__, "message": str(error)}
            refused.add(type(error).__name__)
    assert refused >= {"NotUgicError", "TruncatedError", "CorruptFileError", "DesynchronisedError"}


def test_golden_files_on_two_threads(tmp_path: Path, golden: Codec) -> None:
    answer = decode(written(tmp_path / "site"), FILES, BETAS, threads=2, isolated=True)
    assert (answer["isolated"], answer["threads"], answer["vectors"]) == (True, 2, 5)
    check_symbols_and_pictures(answer, golden)


def test_a_photograph_by_the_shipped_codec(tmp_path: Path, codec: Codec, photograph: np.ndarray) -> None:
    """Its context and preference count for many levels, where those of the golden codec's random weights do not."""
    data = codec.encode(photograph[:100, :150], 4)
    site = written(tmp_path / "site", bundle=codec.bundle.path)
    (result,) = decode(site, {"photograph.ugic": data}, BETAS, threads=1, isolated=False)["results"]
    check_pictures(result, codec, data)


def test_a_file_of_version_2_is_shown_with_its_transparency(tmp_path: Path, golden: Codec) -> None:
    """And what is beside the symbols is told; what nobody knows is skipped. One of a codec with context is refused."""
    name = "50x70-q2.ugic"
    alpha = np.add.outer(np.arange(50), 3 * np.arange(70)).astype(np.uint8)
    stream = bitstream.parse(FILES[name])
    found = (Section(1, encode_alpha(alpha)), Section(2, b"icc"), Section(4, b"exif"), Section(98, b"?"))
    data = container.pack(dataclasses.replace(stream, sections=found))
    staged = container.pack(dataclasses.replace(stream, guard=Guard(12, 1024), codec_id=bytes(8)))
    site = written(tmp_path / "site", examples={"a.ugic": data})
    first, second = decode(site, {"a.ugic": data, "staged.ugic": staged}, BETAS, threads=1, isolated=False)["results"]
    for beta in BETAS:
        pixels = np.frombuffer(base64.b64decode(first["pictures"][str(beta)]), np.uint8).reshape(50, 70, 4)
        assert np.abs(pixels[..., :3].astype(int) - golden.decode(data, float(beta))).max() <= 1
        np.testing.assert_array_equal(pixels[..., 3], alpha)
    words = "a codec with context, which the page does not decode; use ugicm decode"
    assert second["error"]["name"] == "CodecMismatchError" and second["error"]["message"].endswith(words)
    seen = watched(site, "?file=examples/a.ugic", isolated=False)
    assert seen["state"] == "done" and "format 2" in seen["checks"]
    facts = seen["facts"].split("\n")
    assert (
        facts[facts.index("transparency") + 1].endswith("bytes") and facts[facts.index("section 98") + 1] == "1 bytes"
    )
    assert facts[facts.index("ICC profile") + 1] == "3 bytes" and facts[facts.index("EXIF") + 1] == "4 bytes"
    np.testing.assert_array_equal(np.array(seen["canvas"]["human"]).reshape(50, 70, 4)[..., 3], alpha)


def test_a_graph_that_is_not_exact_gives_way_to_the_reference(tmp_path: Path, golden: Codec) -> None:
    """Golden vectors that this browser cannot give: the integers themselves decode, and rightly."""
    site = written(tmp_path / "site")
    with np.load(io.BytesIO(golden.bundle.file("golden.npz"))) as arrays:
        vectors = {name: arrays[name] for name in arrays.files}
    vectors["scale_index2"] = vectors["scale_index2"] ^ 1
    replace_file(site / "bundle", "golden.npz", npz_bytes(vectors))
    answer = decode(site, FILES, BETAS, threads=1, isolated=False)
    assert answer["reference"] is True
    check_symbols_and_pictures(answer, golden)


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Another file in a bundle, and a manifest that says so."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / name).write_bytes(data)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_the_page_shows_an_example_with_the_library_of_another_server(tmp_path: Path, golden: Codec) -> None:
    """As from a CDN: other origin, digests, isolated page. The policy names that server and none else; a second file is
    dropped on the page after the first, and the dial turned.
    """
    assert LIBRARY
    files = tmp_path / "cdn"
    files.mkdir()
    for name, data in LIBRARY.contents.items():
        (files / name).write_bytes(data)
    first, name, odd = "64x128-q1.ugic", "50x70-q2.ugic", "à #1?.ugic"
    with serving(files, headers={"Access-Control-Allow-Origin": "*"}) as (cdn, _):
        elsewhere = dataclasses.replace(LIBRARY, base=f"{cdn}/", contents={})
        site = written(tmp_path / "site", elsewhere, {first: FILES[first], odd: FILES[name]})
        assert f"connect-src 'self' {cdn};" in (site / "index.html").read_text()
        dropped = quote(f"examples/{quote(odd)}")
        seen = watched(site, f"?file=examples/{first}&drop={dropped}&beta=0.3&turn=0.6&threads=2")
    assert (seen["state"], seen["isolated"], seen["error"]) == ("done", True, "")
    assert seen["status"] == "Decoder ready, 2 threads"
    assert "70 × 50" in seen["facts"] and f"{len(FILES[name])} bytes" in seen["facts"]
    assert "5 of 5 golden vectors" in seen["checks"] and f"{EXPECTED[name]['symbol_checksum']:08x}" in seen["checks"]
    assert odd in seen["examples"] and golden.codec_id.hex() in seen["about"]
    human, machine = (np.array(seen["canvas"][i]).reshape(50, 70, 4)[..., :3] for i in ("human", "machine"))
    assert np.abs(human - golden.decode(FILES[name], "human").astype(int)).max() <= 1
    assert np.abs(machine - golden.decode(FILES[name], 0.6).astype(int)).max() <= 1


def test_the_page_refuses_in_the_runtimes_words(tmp_path: Path, golden: Codec) -> None:
    site = written(tmp_path / "site")
    (site / "cut.ugic").write_bytes(FILES["50x70-q2.ugic"][:-1])
    seen = watched(site, "?file=cut.ugic", isolated=False)
    with pytest.raises(UgicError) as refusal:
        golden.decode(FILES["50x70-q2.ugic"][:-1], name="cut.ugic")
    assert (seen["state"], seen["error"]) == ("error", f"TruncatedError\n{refusal.value}")
    seen = watched(site, "?file=http://example.org/a.ugic", isolated=False)
    assert "http://example.org/a.ugic: is on another server" in seen["error"]


def test_the_page_refuses_a_bundle_that_was_changed(tmp_path: Path) -> None:
    site = written(tmp_path / "site")
    data = bytearray((site / "bundle/h_s.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (site / "bundle/h_s.onnx").write_bytes(data)
    seen = watched(site, "", isolated=False)
    assert seen["status"] == "The decoder cannot be loaded"
    assert seen["error"].startswith("BundleError\n/bundle/h_s.onnx: changed since export (SHA-256 differs)")
