from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from ugicm.training.config import ConfigError, Data, Instances
from ugicm.training.data import Crops, image_files
from ugicm.training.instances import CocoInstances, Instance, Window, propose, through_window, views

LOOK = Instances(source="proposals", size=16, least_side=4)


def corner(side: int = 20) -> Instance:
    """A triangle in the box (10, 30) … (30, 50)."""
    return Instance((10, 30, 10 + side, 30 + side), np.tril(np.ones((side, side), bool)))


def test_views_show_one_instance_each_with_gradients_where_it_is() -> None:
    picture = torch.rand(3, 64, 64, requires_grad=True)
    found = views(picture, [corner(), Instance((0, 0, 8, 40), None)], LOOK)
    assert found.shape == (2, 3, 16, 16)
    (gradient,) = torch.autograd.grad(found[0].sum(), picture)
    seen = gradient.abs().sum(0) > 0
    assert torch.equal(seen[10:30, 30:50], torch.tensor(corner().mask)) and int(seen.sum()) == corner().mask.sum()
    whole = views(picture, [corner()], LOOK.model_copy(update={"view": "cropped"}))
    (gradient,) = torch.autograd.grad(whole.sum(), picture)
    assert (gradient.abs().sum(0) > 0)[10:30, 30:50].all()


def test_no_instances_are_no_views() -> None:
    assert views(torch.rand(3, 8, 8), [], LOOK).shape == (0, 3, 16, 16)
    assert propose(np.full((70, 90, 3), 128, np.uint8)) == []


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("side", [64, 32])
def test_instances_follow_their_pixels_through_a_crop(flip: bool, transpose: bool, side: int) -> None:
    image = np.zeros((80, 90), np.uint8)
    image[10:30, 30:50] = 200 * corner().mask
    window = Window(4, 20, side, 64, flip, transpose)
    crop = image[4 : 4 + side, 20 : 20 + side]
    crop = np.asarray(Image.fromarray(crop).resize((64, 64), Image.Resampling.NEAREST))
    crop = crop[:, ::-1] if flip else crop
    crop = crop.T if transpose else crop
    (found,) = through_window([corner()], window, LOOK)
    top, left, bottom, right = found.box
    painted = np.zeros((64, 64), bool)
    painted[top:bottom, left:right] = found.mask
    assert np.array_equal(painted, crop > 0)


def test_what_a_crop_cuts_off_is_dropped_and_what_it_cuts_is_kept() -> None:
    assert through_window([corner()], Window(0, 0, 30, 60, False, False), LOOK) == []
    (found,) = through_window([corner()], Window(0, 0, 40, 40, False, False), LOOK)
    assert found.box == (10, 30, 30, 40) and found.mask.shape == (20, 10)
    many = [corner()] * 9
    assert len(through_window(many, Window(0, 0, 64, 64, False, False), LOOK)) == LOOK.most


def test_proposals_find_what_stands_out(pictures: Path) -> None:
    with Image.open(pictures / "keep_0.png") as image:
        found = propose(np.asarray(image))
    top, left, bottom, right = found[0].box
    assert np.allclose(found[0].box, (20, 30, 60, 70), atol=2)
    painted = np.zeros((100, 90), bool)
    painted[top:bottom, left:right] = found[0].mask
    assert painted[20:60, 30:70].mean() > 0.9


def coco(path: Path, segmentation: object) -> Path:
    images = [{"id": 7, "file_name": "keep_0.png", "height": 100, "width": 90}]
    annotations = [
        {"image_id": 7, "bbox": [30, 20, 40, 40], "segmentation": segmentation, "category_id": 1},
        {"image_id": 7, "bbox": [0, 0, 10, 10], "category_id": 2},
        {"image_id": 7, "bbox": [5, 5, 0, 10], "category_id": 2},
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def run_lengths(compressed: bool) -> dict[str, object]:
    mask = np.zeros((100, 90), np.uint8)
    mask[20:60, 30:50] = 1
    if compressed:
        encoded = rle.encode(np.asfortranarray(mask))
        return {"size": [100, 90], "counts": encoded["counts"].decode()}
    column = mask.T.ravel()
    changes = np.flatnonzero(np.diff(column)) + 1
    return {"size": [100, 90], "counts": np.diff([0, *changes, column.size]).tolist()}


@pytest.mark.parametrize(
    "segmentation",
    [[[30, 20, 50, 20, 50, 60, 30, 60]], run_lengths(False), run_lengths(True)],
    ids=["polygon", "rle", "text"],
)
def test_coco_masks_of_every_kind(tmp_path: Path, segmentation: object) -> None:
    image = np.zeros((100, 90, 3), np.uint8)
    found = CocoInstances(coco(tmp_path / "coco.json", segmentation)).of("keep_0.png", image)
    assert [i.box for i in found] == [(20, 30, 60, 70), (0, 0, 10, 10)]
    assert found[0].mask[:, :20].all() and not found[0].mask[:, 20:].any() and found[1].mask is None
    half = CocoInstances(tmp_path / "coco.json").of("keep_0.png", np.zeros((50, 45, 3), np.uint8))
    assert half[0].box == (10, 15, 30, 35) and half[0].mask[:, :10].all()
    assert CocoInstances(tmp_path / "coco.json").of("unknown.png", image) == []


def test_crops_bring_their_instances_along(pictures: Path, tmp_path: Path) -> None:
    path = coco(tmp_path / "coco.json", [[30, 20, 70, 20, 70, 60, 30, 60]])
    settings = Instances(source="coco", annotations=path, least_side=8)
    crops = Crops(image_files(pictures, ["skip_*", "keep_1*"]), Data(crop=64, reduced=0), settings)
    pixels, found = crops.batch(8, 0, 1)
    assert any(found)
    for picture, instances in zip(pixels, found, strict=True):
        for instance in instances:
            top, left, bottom, right = instance.box
            if instance.mask is not None:
                inside = picture[0, top:bottom, left:right]
                assert inside.median() > 0.8  # the bright rectangle of the picture


def test_files_that_are_not_coco(tmp_path: Path) -> None:
    for text in ("no json", "[]", '{"images": []}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError, match="bad.json: not a COCO file"):
            CocoInstances(tmp_path / "bad.json")
