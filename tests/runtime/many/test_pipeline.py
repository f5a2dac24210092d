"""Many files at once: the same results as one by one, in order, whatever is wrong with some."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.attacks.commands import BUNDLE, ROOT
from tests.runtime.backends.host_device import HostBackend
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.commands.cli import main
from ugicm.runtime.errors import (
    BackendError,
    ConditionError,
    CorruptFileError,
    ImageError,
    QualityError,
    UgicError,
    UsageError,
)
from ugicm.runtime.files import sections
from ugicm.runtime.files.images import read_image, write_image
from ugicm.runtime.files.keeping import Keeping
from ugicm.runtime.flow import asking
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.many import pipeline
from ugicm.runtime.many.joined import together
from ugicm.runtime.processes.worker import DiedError

SIZES = ((64, 64), (100, 150), (1, 1), (128, 192), (70, 33))


@pytest.fixture(scope="module")
def files(codec: Codec, photograph: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("many")
    paths = []
    for i, (height, width) in enumerate(SIZES):
        path = folder / f"{i}.ugic"
        path.write_bytes(codec.encode(photograph[:height, :width], quality=1 + i))
        paths.append(path)
    return paths


def photographed(codec: Codec, file: Path, quality: int) -> bytes:
    """What a file shows, coded at a quality of its own."""
    return codec.encode(codec.decode(file.read_bytes()), quality=quality)


@pytest.mark.parametrize("workers", [0, 2])
def test_decodes_as_one_by_one_and_goes_on_after_bad_files(codec: Codec, files: list[Path], workers: int) -> None:
    damaged = bytearray(files[3].read_bytes())
    damaged[len(damaged) // 2] ^= 0x40
    missing = files[0].with_name("missing.ugic")
    sources = [files[0], bytes(damaged), *files[1:3], missing, b"nonsense", *files[3:], files[1].read_bytes()]
    outcomes = list(codec.decode_many(sources, conditions=["human", "machine"], workers=workers, ahead=3))
    assert [o.source for o in outcomes] == sources
    for source, outcome in zip(sources, outcomes, strict=True):
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            expected = codec.decode_views(data, ["human", "machine"])
        except (UgicError, OSError) as error:
            assert outcome.value is None
            assert isinstance(outcome.error, UsageError if source == missing else type(error))
            continue
        assert outcome.error is None
        for a, b in zip(expected, outcome.value, strict=True):
            np.testing.assert_array_equal(a, b)
    assert isinstance(outcomes[1].error, CorruptFileError)
    assert "input 1" in str(outcomes[1].error) and "missing.ugic" in str(outcomes[4].error)


@pytest.mark.parametrize("workers", [0, 2])
def test_encodes_as_one_by_one(codec: Codec, photograph: np.ndarray, tmp_path: Path, workers: int) -> None:
    picture = tmp_path / "a.png"
    write_image(picture, photograph[:80, :90])
    broken = tmp_path / "b.png"
    broken.write_bytes(picture.read_bytes()[:100])
    images = [photograph[:64, :70], picture, broken, np.zeros((2, 2)), photograph]
    outcomes = list(codec.encode_many(images, quality=3, workers=workers, then=lambda source, data: (len(data), data)))
    assert [o.error is None for o in outcomes] == [True, True, False, False, True]
    assert all(isinstance(outcomes[i].error, ImageError) for i in (2, 3))
    for i, image in ((0, images[0]), (1, photograph[:80, :90]), (4, photograph)):
        expected = codec.encode(image, quality=3)
        assert outcomes[i].value == (len(expected), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_files_keep_what_the_command_keeps(codec: Codec, tmp_path: Path, workers: int) -> None:
    clear = np.full((40, 50, 4), 90, np.uint8)
    clear[:20, :, 3] = 0
    exif = Image.Exif()
    exif[271] = "A maker"
    Image.fromarray(clear).save(tmp_path / "a.png", exif=exif)
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.ugic")]) == 0
    whole, bare = (
        next(codec.encode_many([tmp_path / "a.png"], workers=workers, keeping=keeping)).value
        for keeping in (Keeping(), Keeping(strip=True, opaque=True))
    )
    assert whole == (tmp_path / "a.ugic").read_bytes()
    assert set(sections.sizes(bitstream.parse(whole))) == {"transparency", "EXIF"}
    assert bare == codec.encode(read_image(tmp_path / "a.png"))


class Recorded:
    """A codec's own networks, with the size of each batch; the first run waits until all files do."""

    def __init__(self, codec: Codec, patch: pytest.MonkeyPatch, files: int) -> None:
        self.sizes: list[int] = []
        lines: list[pipeline._Line] = []
        prepare, run = pipeline._Line.__init__, codec.networks.whole

        def made(line: pipeline._Line, *arguments: Any) -> None:
            prepare(line, *arguments)
            lines.append(line)

        def recorded(graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
            if graph == "condition":
                return run(graph, inputs)
            size = max(array.shape[0] for array in inputs.values())
            deadline = time.monotonic() + 30
            while not self.sizes and size + len(lines[0]._waiting) < files and time.monotonic() < deadline:
                time.sleep(0.005)
            self.sizes.append(size)
            if any(name == "image" and (array == 77).all((1, 2, 3)).any() for name, array in inputs.items()):
                raise BackendError("this picture is all 77")
            return run(graph, inputs)

        patch.setattr(pipeline._Line, "__init__", made)
        patch.setattr(codec.networks, "whole", recorded)
        patch.setattr(codec.networks.tiler, "_run", recorded)


def backend_of(kind: str, codec: Codec) -> Any:
    return codec.backend if kind == "onnxruntime" else HostBackend()


@pytest.mark.parametrize("kind", ["onnxruntime", "device"])
def test_files_of_one_size_are_decoded_together(
    codec: Codec, files: list[Path], photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = Codec(codec.bundle, backend_of(kind, codec))
    alike = [codec.encode(np.roll(photograph, 8 * i, 1)[:100, : 150 - i], quality=5) for i in range(9)]
    sources = [*alike[:4], files[0], photographed(codec, files[1], 2), *alike[4:]]
    expected = [other.decode_views(source if isinstance(source, bytes) else source.read_bytes(), ["machine", 0.5])
                for source in sources]  # fmt: skip
    recorded = Recorded(other, monkeypatch, len(sources))
    outcomes = list(other.decode_many(sources, conditions=["machine", 0.5], workers=0, ahead=11, batch=3))
    assert set(recorded.sizes) == {1, 3}
    for views, outcome in zip(expected, outcomes, strict=True):
        assert outcome.error is None
        for a, b in zip(views, outcome.value, strict=True):
            difference = np.abs(a.astype(int) - b)
            assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("kind", ["onnxruntime", "device"])
def test_images_of_one_size_are_encoded_together_and_only_the_bad_one_fails(
    codec: Codec, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = Codec(codec.bundle, backend_of(kind, codec))
    images = [np.roll(photograph, 8 * i, 1)[: 100 + i, :150] for i in range(8)]
    images[5] = np.full_like(images[5], 77)
    recorded = Recorded(other, monkeypatch, len(images))
    outcomes = list(other.encode_many(images, quality=4, workers=0, ahead=8, batch=4))
    assert set(recorded.sizes) == {1, 4}
    for i, (image, outcome) in enumerate(zip(images, outcomes, strict=True)):
        if i == 5:
            assert str(outcome.error) == "this picture is all 77"
            continue
        assert outcome.error is None
        alone = codec.encode(image, 4)
        assert abs(len(outcome.value) - len(alone)) < 0.01 * len(alone)
        assert (codec.decode(outcome.value) != codec.decode(alone)).mean() < 0.02


@pytest.mark.parametrize("kind", ["onnxruntime", "device"])
def test_scale_indexes_and_means_do_not_depend_on_the_batch(codec: Codec, kind: str) -> None:
    other = Codec(codec.bundle, backend_of(kind, codec))
    rng = np.random.default_rng(7)
    shape = (1, codec.bundle.manifest.hyper_channels, 3, 5)
    files = [np.rint(rng.normal(0, 4, shape)).astype(np.int32) for _ in range(4)]
    runs = [asking((192, 320), 4)(Networks.scales_and_means, z) for z in files]
    for z, (rows, mean) in zip(files, together(other.networks, runs), strict=True):
        expected_rows, expected_mean = codec.networks.scales_and_means(z)
        assert np.array_equal(rows, expected_rows)
        assert np.array_equal(np.asarray(mean), np.asarray(expected_mean))


def test_a_batch_takes_no_more_than_a_large_image(codec: Codec) -> None:
    for height, width in ((64, 64), (512, 768), (2048, 2048)):
        count = pipeline.images_at_once(codec.networks, height, width)
        assert count == 1 or count * height * width <= codec.networks.area.pixels
    assert pipeline.images_at_once(codec.networks, 64, 64) > 100


def test_a_worker_that_dies_costs_the_file_that_it_had(codec: Codec, files: list[Path]) -> None:
    expected = codec.decode(files[0].read_bytes())
    outcomes = codec.decode_many([files[0]] * 6, workers=1, ahead=1)
    assert next(outcomes).error is None
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    found = list(outcomes)
    assert len(found) == 5
    assert [type(o.error) for o in found if o.error is not None] == [DiedError]
    assert all(np.array_equal(o.value[0], expected) for o in found if o.error is None)
    assert multiprocessing.active_children() == []


def test_means_of_files_under_way_do_not_mix_on_a_device(codec: Codec, files: list[Path]) -> None:
    """All files of one size: whatever a device's buffers hold of one must not reach another."""
    device_codec = Codec(codec.bundle, HostBackend())
    sources = [photographed(codec, files[1], quality) for quality in (1, 8, 3, 5, 8, 1)]
    expected = [device_codec.decode(source) for source in sources]
    for device in (None, "cuda"):
        outcomes = list(device_codec.decode_many(sources, workers=0, ahead=4, device=device))
        for a, b in zip(expected, outcomes, strict=True):
            np.testing.assert_array_equal(np.asarray(b.value[0]), a)


def test_takes_no_more_than_it_may_and_stops_when_nobody_listens(codec: Codec, files: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield files[0]

    before = threading.active_count()
    outcomes = codec.decode_many(endless(), workers=0, ahead=3)
    assert taken == 0
    for done in range(1, 5):
        assert next(outcomes).error is None
        assert taken <= done + 3
    outcomes.close()  # type: ignore[attr-defined]
    gc.collect()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


LEFT = """
import itertools, sys
import numpy as np
from ugicm import Codec
if __name__ == "__main__":
    codec = Codec.from_bundle(sys.argv[1], threads=1)
    data = codec.encode(np.zeros((50, 70, 3), np.uint8))

    def failing():
        yield data
        yield data
        raise KeyError("the caller's own iterator failed")

    for _ in range(3):
        try:
            list(codec.decode_many(failing(), workers=0))
        except KeyError:
            pass
        for outcome in itertools.islice(codec.decode_many([data] * 20, workers=0), int(sys.argv[2])):
            assert outcome.error is None
    never_ended = codec.decode_many([data] * 20, workers=int(sys.argv[3]))
    next(never_ended)
    print("end")
"""


@pytest.mark.parametrize(("taken", "workers"), [(0, 0), (1, 1), (19, 0)])
def test_leaving_early_is_silent(taken: int, workers: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", LEFT, str(BUNDLE), str(taken), str(workers)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_nothing_is_shared_without_workers_and_nothing_shared_has_a_name(
    codec: Codec, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    create = os.memfd_create

    def recorded(*arguments: Any) -> int:
        made.append(create(*arguments))
        return made[-1]

    monkeypatch.setattr(os, "memfd_create", recorded)

    def named(*_: Any, **__: Any) -> None:
        raise AssertionError("shared memory with a name")

    monkeypatch.setattr(shared_memory, "SharedMemory", named)
    before = len(os.listdir("/proc/self/fd"))
    assert all(o.error is None for o in codec.decode_many(files, workers=0))
    assert not made
    assert all(o.error is None for o in codec.decode_many(files, workers=1))
    assert made
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "the resource tracker's pipe stays, nothing else"


def test_too_little_to_share_fails_the_file_in_one_line(codec: Codec, photograph: np.ndarray) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    outcomes = codec.encode_many([photograph, np.tile(photograph, (6, 6, 1)), photograph], workers=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))
    try:
        found = list(outcomes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [o.error is None for o in found] == [True, False, True]
    assert isinstance(found[1].error, BackendError) and "use 0 workers" in str(found[1].error)


def test_what_no_file_could_change_is_refused_at_once(codec: Codec) -> None:
    with pytest.raises(ConditionError):
        codec.decode_many([], conditions=["robot"])
    with pytest.raises(QualityError):
        codec.encode_many([], quality=99)
    for wrong in ({"workers": -1}, {"ahead": 0}, {"batch": 0}):
        with pytest.raises(UsageError, match="at least 0"):
            codec.decode_many([], **wrong)
    assert list(codec.decode_many([], workers=0)) == []
