"""Tiles cover an image once, and nobody can tell from the result that there were any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugicm import Codec
from ugicm.runtime.admission import admitted_runner
from ugicm.runtime.graphs.area import Area
from ugicm.runtime.graphs.tiles import Tiler, exact_reach, measured_reach, tiles


@pytest.fixture(scope="module")
def tiled(codec: Codec) -> Codec:
    """The shipped codec with tiles of a fiftieth of a megapixel or so."""
    other = Codec(codec.bundle, codec.backend)
    other.networks.area.work, other.networks.area.smallest = 1.2e8, 0
    return other


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:500, :490])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 12), st.integers(20, 5000))
def test_windows_keep_every_position_once_and_no_position_near_a_cut(
    height: int, width: int, halo: int, area: int
) -> None:
    count = np.zeros((height, width), int)
    windows = tiles(height, width, halo, area)
    for tile in windows:
        for span, length in zip(tile, (height, width), strict=True):
            assert 0 <= span.start <= span.keep_start < span.keep_stop <= span.stop <= length
            assert span.start == 0 or span.keep_start - span.start >= halo
            assert span.stop == length or span.stop - span.keep_stop >= halo
        count[tile.rows.keep_start : tile.rows.keep_stop, tile.columns.keep_start : tile.columns.keep_stop] += 1
    assert (count == 1).all()
    sizes = [(t.rows.stop - t.rows.start) * (t.columns.stop - t.columns.start) for t in windows]
    assert len(set(sizes)) == 1
    if area >= (4 * halo + 2) ** 2:
        assert sizes[0] <= area


def test_a_large_image_has_few_tiles_and_little_is_computed_twice() -> None:
    windows = tiles(250, 375, 2, 8000)  # 24 MP in units of 16 pixels, tiles of 2 MP
    computed = sum((t.rows.stop - t.rows.start) * (t.columns.stop - t.columns.start) for t in windows)
    assert computed < 1.1 * 250 * 375


def box(width: int) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Sums over `width` positions on either side of each, on both axes."""

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        x = inputs["x"]
        for axis in (2, 3):
            padding = [(0, 0)] * 4
            padding[axis] = (width, width)
            padded = np.pad(x, padding)
            x = sum(np.take(padded, range(i, i + x.shape[axis]), axis) for i in range(2 * width + 1))
        return x

    return run


def draw(rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(1, 2, 2 * height, 2 * width))}


@pytest.mark.parametrize(("width", "reach"), [(0, 0), (1, 1), (2, 1), (3, 2), (9, 5), (20, 10)])
def test_the_reach_of_a_filter_is_found(width: int, reach: int) -> None:
    assert measured_reach(box(width), draw, {"x": 2}) == reach


def test_features_of_bytes_are_no_picture() -> None:
    """An INT8 trunk gives uint8 (N, C, H, W): its rows are the third axis, not the second."""
    assert measured_reach(lambda inputs: box(3)(inputs).astype(np.int64).astype(np.uint8), draw, {"x": 2}) == 2


def test_loud_latents_reach_farther_than_quiet_ones(codec: Codec) -> None:
    """Of a synthesis whose far taps change a picture by less than a level until a channel is loud."""
    taps, count = box(6), codec.bundle.manifest.latent_channels

    def run(graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        y_hat = inputs["y_hat"]
        far = taps({"x": y_hat[:, :1]}) / 2000 + y_hat[:, 1:2] / 20
        picture = np.clip(np.rint(128 + far), 0, 255).astype(np.uint8)
        return np.repeat(np.repeat(np.repeat(picture, 16, 2), 16, 3).transpose(0, 2, 3, 1), 3, 3)

    area = Area(codec.bundle.manifest, work=1e6, smallest=0)
    tiler, rng = Tiler(area, run), np.random.default_rng(3)
    for loud in (1.0, 300.0, 1.0):
        y_hat = np.rint(rng.normal(0, loud, (1, count, 40, 40))).astype(np.float32)
        (found,) = tiler.synthesise(y_hat, np.ones((1, count, 1, 1), np.float32), [{}], False)
        whole = run("g_s", {"y_hat": y_hat})[0]
        assert np.abs(found.astype(int) - whole).max() <= 1


def test_what_reads_everything_has_no_reach() -> None:
    assert measured_reach(lambda inputs: inputs["x"] + inputs["x"].sum(), draw, {"x": 2}) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(4e6, 4e7), st.integers(0, 2**32))
def test_scale_indexes_are_the_same_in_tiles(codec: Codec, height: int, width: int, work: float, seed: int) -> None:
    exact = codec.bundle.exact
    assert exact is not None
    rng = np.random.default_rng(seed)
    limit = exact.input_limit
    z = np.rint(rng.normal(0, 3, (1, exact.z_channels, height, width))).astype(np.int32)
    z[rng.random(z.shape) < 0.01] = rng.choice([-limit, limit])
    run = admitted_runner(codec.bundle, codec.backend)
    whole, means = run(z)
    tiler = Tiler(Area(codec.bundle.manifest, work, smallest=0), codec.networks.whole)
    found, found_means = tiler.exact(z, run, exact_reach(exact))
    assert np.array_equal(found, whole) and found.dtype == whole.dtype
    assert means is not None and np.array_equal(found_means, means)


def test_a_smaller_reach_than_that_of_the_exact_path_would_show(codec: Codec) -> None:
    exact = codec.bundle.exact
    assert exact is not None
    run = admitted_runner(codec.bundle, codec.backend)
    z = np.random.default_rng(0).integers(-9, 10, (1, exact.z_channels, 16, 16)).astype(np.int32)
    tiler = Tiler(Area(codec.bundle.manifest, 2e7, smallest=0), codec.networks.whole)
    reach = exact_reach(exact)
    whole = run(z)[0]
    assert np.array_equal(tiler.exact(z, run, reach)[0], whole)
    assert not np.array_equal(tiler.exact(z, run, reach - 1)[0], whole)


def test_no_seam_in_either_view(codec: Codec, tiled: Codec, picture: np.ndarray) -> None:
    data = codec.encode(picture, 4)
    for whole, parts in zip(
        codec.decode_views(data, ["human", "machine"]), tiled.decode_views(data, ["human", "machine"]), strict=True
    ):
        difference = np.abs(whole.astype(int) - parts)
        assert parts.shape == whole.shape
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


def test_the_encoder_in_tiles_writes_what_both_decode(codec: Codec, tiled: Codec, picture: np.ndarray) -> None:
    whole, parts = codec.encode(picture, 3), tiled.encode(picture, 3)
    assert abs(len(whole) - len(parts)) < 0.01 * len(whole)
    one, other = codec.decode(whole), codec.decode(parts)
    assert (one != other).mean() < 0.02
    assert np.abs(tiled.decode(parts).astype(int) - other).max() <= 1


def test_tiles_were_used(codec: Codec, tiled: Codec, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, set[tuple[int, ...]]] = {}

    def run(graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        out = tiled.networks.whole(graph, inputs)
        sizes.setdefault(graph, set()).add(out.shape)
        return out

    monkeypatch.setattr(tiled.networks.tiler, "_run", run)
    tiled.decode(tiled.encode(picture))
    assert sizes["g_s"] and (1, 512, 512, 3) not in sizes["g_s"]
    for graph in ("g_a", "context"):
        assert all(shape[2:] != (32, 32) for shape in sizes[graph])
