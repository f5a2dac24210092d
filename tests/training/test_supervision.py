from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ugicm.training.clip import open_clip
from ugicm.training.config import ConfigError, Supervision
from ugicm.training.encoders import evenly
from ugicm.training.mobilenet import pad_same
from ugicm.training.supervision import SemanticDistance, map_distance, open_encoder

SMALL_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 4, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(weights, description) of a small CLIP with random weights, saved to disk."""
    folder = tmp_path_factory.mktemp("clip")
    description = folder / "small-clip.json"
    description.write_text(json.dumps(SMALL_CLIP))
    library = open_clip()
    library.add_model_config(description)
    torch.manual_seed(0)
    torch.save(library.create_model("small-clip").state_dict(), folder / "weights.pt")
    return folder / "weights.pt", description


def clip(files: tuple[Path, Path], **more: object) -> SemanticDistance:
    settings = Supervision(kind="clip", weights=files[0], model=str(files[1]), depths=3, **more)
    return SemanticDistance(open_encoder(settings), settings)


def imagenet(teacher: Path, **more: object) -> SemanticDistance:
    settings = Supervision(kind="imagenet", weights=teacher, depths=3, logits_weight=0.5, **more)
    return SemanticDistance(open_encoder(settings), settings)


def test_clip_gives_what_open_clip_gives(clip_files: tuple[Path, Path]) -> None:
    encoder = clip(clip_files).encoder
    x = torch.rand(2, 3, 32, 32)
    features = encoder(x)
    model = open_clip().create_model("small-clip", pretrained=str(clip_files[0])).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.visual.image_mean, model.visual.image_std))
    assert torch.allclose(features.embedding, model.encode_image((x - mean) / std), atol=1e-5)
    assert [tuple(m.shape) for m in features.maps] == [(2, 16, 4, 4)] * 3 and features.logits is None
    assert encoder.label == "CLIP-supervised (small-clip)"
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("kind", ["clip", "imagenet"])
def test_distance_is_zero_at_the_original_and_grows(kind: str, clip_files: tuple[Path, Path], teacher: Path) -> None:
    distance = clip(clip_files) if kind == "clip" else imagenet(teacher)
    torch.manual_seed(1)
    x = torch.rand(2, 3, 40, 48)
    noise = torch.randn_like(x)
    values = [distance((x + scale * noise).clamp(0, 1), x) for scale in (0.0, 0.05, 0.3)]
    assert values[0].abs().max() < 1e-5 and (values[1] > values[0]).all() and (values[2] > values[1]).all()


@pytest.mark.parametrize("kind", ["clip", "imagenet"])
def test_gradients_are_right(kind: str, clip_files: tuple[Path, Path], teacher: Path) -> None:
    distance = (clip(clip_files) if kind == "clip" else imagenet(teacher, size=8)).double()
    torch.manual_seed(2)
    x = torch.rand(1, 3, 9, 10, dtype=torch.float64) * 0.8 + 0.1
    x_hat = (x + 0.05 * torch.randn_like(x)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: distance(v, x), (x_hat,), fast_mode=True)


def test_depths_are_spread_and_weighted(teacher: Path) -> None:
    assert evenly(5, 12) == [1, 4, 6, 9, 11] and evenly(3, 2) == [0, 1] and evenly(0, 12) == []
    x, x_hat = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    last = imagenet(teacher, depth_weights=[0.0, 0.0, 1.0], embedding_weight=0)
    last.settings = last.settings.model_copy(update={"logits_weight": 0.0})
    found = [last.encoder(v).maps[-1] for v in (x_hat, x)]
    assert torch.allclose(last(x_hat, x), map_distance(*found))
    with pytest.raises(ConfigError, match="3 numbers are needed"):
        imagenet(teacher, depth_weights=[1.0])


def test_padding_is_tensorflows() -> None:
    assert pad_same(torch.zeros(1, 1, 5, 6), 3, 2).shape == (1, 1, 7, 7)


def test_files_that_are_no_encoders(tmp_path: Path, clip_files: tuple[Path, Path], teacher: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"no weights")
    cases: list[tuple[dict[str, object], str]] = [
        ({"kind": "clip", "weights": bad, "model": str(clip_files[1])}, "not the weights of small-clip"),
        ({"kind": "clip", "weights": teacher, "model": "no-such-model"}, "not a model of open_clip"),
        ({"kind": "clip", "weights": teacher, "model": str(bad.with_suffix(".json"))}, "not a JSON description"),
        ({"kind": "imagenet", "weights": bad}, "not an encoder's file"),
        ({"kind": "imagenet", "weights": tmp_path / "absent"}, "no such file"),
    ]
    for values, says in cases:
        with pytest.raises(ConfigError, match=says):
            open_encoder(Supervision(**values))
    assert open_encoder(Supervision()) is None
