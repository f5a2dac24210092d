"""The report: its figures are the codec's, its page holds all it shows, and a browser shows it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser import MISSING, chromium, visit
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.commands.cli import main
from ugicm.runtime.commands.report.figures import Curve, map_uri, picture_uri, rate_distortion_plot, shown_size
from ugicm.runtime.commands.report.measures import Point, codec_points, latent_bits, pillow_points, symbol_bits
from ugicm.runtime.commands.report.page import page, section
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.files.images import read_image, write_image
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.tables import Tables

VOID = {"meta", "img", "input", "br", "hr", "link"}


class Page(HTMLParser):
    """A page's elements as (tag, attributes), and what is wrong with its structure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def layer(self, name: str) -> np.ndarray:
        """Pixels of the picture that the page calls `name`."""
        (found,) = [image for image in self.all("img") if image.get("data-layer") == name]
        data = base64.b64decode(found["src"].split(",", 1)[1])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def reported(codec: Codec, photograph: np.ndarray) -> str:
    """A page of two images, the second of a hostile name."""
    sections = [
        section(codec, "photo.png", photograph, 2, "image-1"),
        section(codec, '<script>alert(1)</script>"\n&amp;.png', photograph[:33, :70], 2, "image-2"),
    ]
    return page(codec, sections, 2, 1)


# ---- measures


def test_bits_by_position_account_for_the_file(codec: Codec, photograph: np.ndarray) -> None:
    for quality in (1, codec.qualities):
        data = codec.encode(photograph[:100], quality)
        stream, bits = bitstream.parse(data), latent_bits(codec, data)
        # A substream ends with one or two words more than its symbols take, and begins with a byte.
        for streams, spent in ((stream.y, bits.y.sum()), ((stream.z,), bits.z.sum())):
            held = 8 * sum(map(len, streams))
            assert held - 80 * len(streams) < spent < held
        assert bits.channels.sum() == pytest.approx(bits.y.sum())
        assert bits.y.shape == (8, 12) and bits.z.shape == (2, 3) and bits.stride == 16
        assert bits.per_pixel().sum() * 256 == pytest.approx(bits.y.sum() + bits.z.sum())
        assert bits.rest == pytest.approx(8 * len(data) - bits.y.sum() - bits.z.sum())


def test_busy_places_cost_more_bits(codec: Codec) -> None:
    pixels = np.full((128, 128, 3), 90, np.uint8)
    pixels[64:, 64:] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    spent = latent_bits(codec, codec.encode(pixels, 4)).per_pixel()
    assert spent[5:7, 5:7].mean() > 10 * spent[1:3, 1:3].mean()


def test_the_bits_of_a_symbol_are_those_of_its_frequency() -> None:
    frequencies = np.array([4194304, 8388608, 4194303, 1, 1 << 24], np.uint32)
    tables = Tables.from_arrays(
        frequencies, np.array([0, 4, 1], np.int32), np.array([0, -1, 0], np.int32)
    )  # a skipped row, that of docs/bitstream.md, one whose every symbol is escaped
    symbols = np.array([0, -1, 0, 1, 2, -2, 300, 5, 0, 2**31 - 1, -(2**31)], np.int32)
    rows = np.array([0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2], np.uint8)
    escape = 24 + 8
    expected = [0, 2, 1, 2, escape, escape, escape + 8, 8, 8, 40, 40]
    np.testing.assert_allclose(symbol_bits(symbols, rows, tables), expected, atol=1e-6)
    streams = range_encoder.encode(symbols, rows, tables)
    assert 0 < 8 * len(streams[0]) - sum(expected) <= 80


def test_points_are_those_of_whole_files(codec: Codec, photograph: np.ndarray) -> None:
    points = codec_points(codec, photograph)
    assert list(points) == list(codec.conditions)
    for quality in (1, 5):
        data = codec.encode(photograph, quality)
        for condition, curve in points.items():
            expected = Point(quality, 8 * len(data) / 24576, psnr(photograph, codec.decode(data, condition)))
            assert curve[quality - 1] == expected
    for form in ("JPEG", "WEBP"):
        found = pillow_points(photograph, form, 1.0)
        assert len(found) > 3 and found[-2].bpp <= 1.0 < found[-1].bpp
        buffer = io.BytesIO()
        Image.fromarray(photograph).save(
            buffer, form, quality=10, **({"optimize": True} if form == "JPEG" else {"method": 6})
        )
        (ten,) = [point for point in found if point.setting == 10]
        assert ten == Point(10, 8 * buffer.tell() / 24576, psnr(photograph, np.asarray(Image.open(buffer))))
    assert pillow_points(np.zeros((1, 16384, 3), np.uint8), "WEBP", 1.0) == []


# ---- figures


def test_a_plot_leaves_out_what_has_no_place_in_it() -> None:
    points = [Point(1, 0.1, 30.0), Point(2, 0.3, 35.5), Point(3, 0.6, math.inf)]
    jpeg = [Point(5, 0.2, 25.0), Point(50, 9.0, 60.0)]
    svg = rate_distortion_plot([Curve("a <b>", "view0", points), Curve("JPEG", "jpeg", jpeg)], 2)
    assert "<b>" not in svg and "a &lt;b&gt;" in svg
    assert svg.count('class="ring"') == 1
    for number in re.findall(r' (?:cx|x1|x2|cy|y1|y2|x|y)="([^"]+)"', svg):
        assert -60 <= float(number) <= 640 and math.isfinite(float(number))
    assert not Page(svg).faults
    alone = rate_distortion_plot([Curve("all", "view0", points[2:])], 3)
    assert alone.startswith("<p>") and "no curve" in alone
    assert not Page(rate_distortion_plot([Curve("one", "view0", points[:1])], 1)).faults


def test_pictures_are_exact_while_small_and_bounded_when_large(photograph: np.ndarray) -> None:
    def pixels_of(uri: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))

    np.testing.assert_array_equal(pixels_of(picture_uri(photograph)), photograph)
    assert shown_size(4000, 1000) == (1600, 400) and shown_size(65535, 1) == (1600, 1)
    large = np.kron(photograph, np.ones((16, 16, 1), np.uint8))
    shown = pixels_of(picture_uri(large))
    assert shown.shape == (1067, 1600, 3)
    assert len(picture_uri(large)) < 1e6
    ramp = pixels_of(map_uri(np.array([[0.0, 0.5, 1.0, 7.0]]), 1.0, "error", pixelated=True)).astype(int)
    light = ramp.sum(2)[0]
    assert light[0] < light[1] < light[2] == light[3]


# ---- the page


def test_the_page_holds_all_it_shows(reported: str) -> None:
    found = Page(reported)
    assert not found.faults
    assert "default-src 'none'" in reported
    for _, attributes in found.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert name not in attributes or attributes[name].startswith(("data:image/", "#"))
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in reported and "@import" not in reported
    assert len(found.all("script")) == 1  # that of the page, none of a file's name
    anchors = [a["id"] for _, a in found.elements if "id" in a]
    assert len(set(anchors)) == len(anchors)
    assert {a["href"][1:] for a in found.all("a")} <= set(anchors)


def test_the_page_can_be_read_without_eyes(reported: str) -> None:
    found = Page(reported)
    assert found.all("html")[0]["lang"] == "en"
    for image in found.all("img"):
        assert image["alt"] or "data-layer" not in image
    for plot in found.all("svg"):
        assert plot.get("aria-label") or "role" not in plot
    assert all(slider["aria-label"] for slider in found.all("input"))
    assert reported.count("<label>") == len(found.all("select"))


def test_pictures_and_figures_are_the_codecs(reported: str, codec: Codec, photograph: np.ndarray) -> None:
    small = photograph[:33, :70]
    data = codec.encode(small, 2)
    text = unescape(reported.split('id="image-2"', 1)[1])
    second = Page('<section id="image-2"' + reported.split('<section id="image-2"', 1)[1].split("</section>")[0])
    np.testing.assert_array_equal(second.layer("original"), small)
    for condition in codec.conditions:
        view = codec.decode(data, condition)
        np.testing.assert_array_equal(second.layer(f"{condition} view"), view)
        assert f"{len(data):,} bytes, {8 * len(data) / 2310:.3f} bpp, {psnr(small, view):.2f} dB" in text
    assert second.layer("where the bits went").shape == (33, 70, 3)
    # One colour for each latent position, and where most bits went the last of the scale.
    heat = second.layer("where the bits went")
    spent = latent_bits(codec, data).per_pixel()
    top = np.unravel_index(spent.argmax(), spent.shape)
    square = heat[top[0] * 16 : top[0] * 16 + 16, top[1] * 16 : top[1] * 16 + 16]
    assert (square == square[0, 0]).all() and tuple(square[0, 0]) == (253, 231, 37)


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (150, 1), (17, 2000)])
def test_any_size_can_be_reported(codec: Codec, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    made = section(codec, "x", pixels, 1, "image-1")
    found = Page(made.html)
    assert not found.faults
    height, width = found.layer("human view").shape[:2]
    assert (width, height) == shown_size(size[1], size[0])
    assert ("scaled down to 1600×14" in made.html) == (size[1] == 2000)


def test_a_codec_of_one_view(tmp_path: Path, photograph: np.ndarray, common: Path) -> None:
    """CompressAI's factorised prior: no conditions, no hyper-latents, one quality."""
    pytest.importorskip("torch")
    from tests.zoo_bundles import exported

    bundle = exported("bmshj2018-factorized", common).with_name("checkpoint")
    write_image(tmp_path / "photo.png", photograph)
    output = tmp_path / "out.html"
    assert main(["report", f"{tmp_path}/photo.png", "-o", str(output), "--bundle", str(bundle)]) == 0
    found = Page(output.read_text(encoding="utf-8"))
    assert not found.faults
    codec = Codec.from_bundle(bundle, threads=1)
    data = codec.encode(photograph)
    np.testing.assert_array_equal(found.layer("decoded view"), codec.decode(data))
    assert {i["data-layer"] for i in found.all("img") if "JPEG" not in i.get("data-layer", "JPEG")} == {
        "original", "decoded view", "error of the decoded view", "where the bits went"
    }  # fmt: skip
    bits = latent_bits(codec, data)
    assert bits.z.size == 0 and 0 < bits.rest < 8 * 60 + 80


# ---- the command


def test_the_command_writes_one_page(
    tmp_path: Path, photograph: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, photograph[:64, :64])
    (tmp_path / "words.png").write_text("not a picture")
    output = tmp_path / "page.html"
    images = [str(tmp_path / name) for name in ("a.png", "words.png", "b.png")]
    assert main(["report", *images, "-o", str(output), "-q", "3", "--threads", "1"]) == 2
    printed, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and "words.png" in error
    assert printed.count("quality 3  ") == 2 and printed.count("\n") == 3
    text = output.read_text(encoding="utf-8")
    assert text.count("<section id=") == 2 and "2 images at quality 3" in text
    np.testing.assert_array_equal(Page(text.split("</section>")[0]).layer("original"), read_image(tmp_path / "a.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", "words.png", "page.html"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["IMAGE"], "-o"),
        (["IMAGE", "-o", "DIR"], "is a folder"),
        (["IMAGE", "-o", "DIR/no/x.html"], "does not exist"),
        (["IMAGE", "-o", "IMAGE"], "replace an input"),
        (["IMAGE", "-o", "DIR/x.html", "--quality", "99"], "quality '99'"),
        (["IMAGE", "-o", "DIR/x.html", "--threads", "0"], "0 threads: give 1 to"),
        (["IMAGE", "-o", "DIR/x.html", "--threads", "1000"], "1000 threads: give 1 to"),
        (["IMAGE", "-o", "DIR/x.html", "--threads", "x"], "--threads"),
        (["IMAGE", "-o", "DIR/x.html", "--bundle", "DIR/no"], "DIR/no"),
        (["DIR/no.png", "-o", "DIR/x.html"], "no such file"),
    ],
)
def test_every_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "photo.png"
    write_image(image, np.zeros((20, 20, 3), np.uint8))

    def filled(text: str) -> str:
        return text.replace("IMAGE", str(image)).replace("DIR", str(tmp_path))

    assert main(["report", *map(filled, arguments)]) == 2
    printed, error = capsys.readouterr()
    assert printed == "" and error.startswith("error: ") and error.count("\n") == 1 and filled(words) in error
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


# ---- in a browser

LISTEN = """<script>
window.faults = [];
addEventListener("securitypolicyviolation", (e) => faults.push(e.violatedDirective + " " + e.blockedURI));
addEventListener("error", (e) => faults.push(String(e.message)));
</script>"""

LOOK = """<script>
addEventListener("load", () => {
  const shades = (color) => {
    const [r, g, b, a] = color.match(/[\\d.]+/g).map(Number);
    const lin = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return {alpha: a === undefined ? 1 : a, light: 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]};
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const shade = shades(getComputedStyle(node).backgroundColor);
      if (shade.alpha === 1) return shade.light;
    }
    return 1;
  };
  const contrasts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const owner = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !owner.getClientRects().length || owner.closest("script,option")) continue;
    const style = getComputedStyle(owner);
    const text = shades(owner.closest("svg") ? style.fill : style.color).light, back = ground(owner);
    contrasts.push([(Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05), walk.currentNode.data.trim()]);
  }
  contrasts.sort((a, b) => a[0] - b[0]);
  const section = document.querySelector("section");
  const [left, right, size] = section.querySelectorAll("select");
  const [below, above] = section.querySelectorAll(".stage img");
  const slider = section.querySelector("input"), frame = section.querySelector(".frame");
  const change = (control, value, kind) => { control.value = value; control.dispatchEvent(new Event(kind)); };
  const stage = section.querySelector(".stage");
  const cut = () => Number(above.style.clipPath.match(/[\\d.]+/g).at(-1)) / stage.clientWidth;
  const cuts = [];
  for (const value of [50, 0, 100]) { change(slider, value, "input"); cuts.push(cut()); }
  change(slider, 50, "input");
  change(size, "4", "change");
  frame.scrollLeft = 1e6;
  frame.dispatchEvent(new Event("scroll"));  // the browser's own comes only with the next frame
  const zoomed = above.clientWidth, scrolled = cut();
  const box = frame.getBoundingClientRect();
  above.dispatchEvent(new PointerEvent("pointerdown", {buttons: 1, clientX: box.left + box.width / 4, bubbles: true}));
  const dragged = Number(slider.value);
  change(right, "2", "change");
  const result = {
    faults, cuts, zoomed, scrolled, dragged,
    choices: [...left.options].map((option) => option.text),
    loaded: [...document.images].every((image) => image.naturalWidth > 0),
    hidden: section.querySelector(".compare").hidden,
    shows: [below, above].map((image) => image.alt.split(":")[0]),
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name).filter((n) => !n.startsWith("data:")),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    ground: getComputedStyle(document.body).backgroundColor,
    contrast: contrasts[0], texts: contrasts.length,
  };
  document.body.dataset.result = JSON.stringify(result);
});
</script>"""


def look(text: str, folder: Path, **options: Any) -> dict[str, Any]:
    """What a browser finds in a page; the page's own policy stays in force."""
    file = folder / "page.html"
    watched = text.replace("<style>", f"{LISTEN}<style>", 1).replace("</body>", f"{LOOK}</body>", 1)
    file.write_text(watched, encoding="utf-8")
    seen = visit(file, **options)
    found = re.search(r'data-result="([^"]*)"', seen)
    assert found, "the page's scripts did not end"
    return json.loads(unescape(found[1]))  # type: ignore[no-any-return]


@pytest.mark.skipif(chromium() is None, reason=MISSING)
@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 500)])
def test_a_browser_shows_it(reported: str, tmp_path: Path, dark: bool, width: int) -> None:
    found = look(reported, tmp_path, dark=dark, width=width)
    assert found["faults"] == [] and found["fetched"] == []
    assert found["loaded"] and not found["hidden"]
    assert found["choices"][:3] == ["original", "human view", "machine view"] and len(found["choices"]) == 8
    np.testing.assert_allclose(found["cuts"], [0.5, 0, 1], atol=0.01)
    assert found["zoomed"] == 4 * 192
    if width < found["zoomed"]:  # scrolled to the right end, the divider is in the middle of what is seen
        assert found["scrolled"] > 0.6
    assert found["dragged"] == pytest.approx(25, abs=0.5)
    assert found["shows"] == ["original", "machine view"]
    assert found["overflow"] <= 0
    light = sum(map(int, re.findall(r"\d+", found["ground"])[:3])) / 3
    assert light < 40 if dark else light > 200
    assert found["texts"] > 100 and found["contrast"][0] >= 4.5, found["contrast"]  # WCAG 2.1, level AA
