from __future__ import annotations

import pytest
import torch

from tests.small import lively, small
from ugicm.models.growth import grown
from ugicm.training.run import choose_trained

WIDTHS = {"analysis_quarter": 1, "analysis_fine": 5, "analysis_coarse": 3}


def test_a_grown_analysis_computes_what_it_did() -> None:
    model = lively("fast").eval()
    larger = grown(model, **WIDTHS).eval()
    once_more = grown(larger, analysis_quarter=3, analysis_fine=6).eval()
    x, quality = torch.rand(2, 3, 128, 192), torch.tensor([0, 1])
    with torch.no_grad():
        y = model.analyse(x, quality)
        assert torch.equal(larger.analyse(x, quality), y)
        assert torch.equal(once_more.analyse(x, quality), y)
    own, theirs = model.state_dict(), larger.state_dict()
    assert all(torch.equal(theirs[k], v) for k, v in own.items() if not k.startswith("g_a."))


def test_every_new_block_learns() -> None:
    larger = grown(lively("fast"), **WIDTHS).train()
    choose_trained(larger, ["g_a.*"])
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([0, 1])
    larger.analyse(x, quality).square().sum().backward()
    projections = [p for n, p in larger.g_a.named_parameters() if n.endswith("project.weight") and "quarter" not in n]
    entering = [p for n, p in larger.g_a.named_parameters() if "quarter" in n][-2:]
    assert projections and all(p.grad is not None and p.grad.abs().max() > 0 for p in (*projections, *entering))


@pytest.mark.parametrize(
    ("backbone", "widths", "word"),
    [
        ("fast", {"analysis_fine": 1}, "less than the 3"),
        ("fast", {"latent": 16}, "latent cannot grow"),
        ("bmshj2018", {"analysis_fine": 9}, "only the 'fast' backbone"),
    ],
)
def test_other_growth_is_refused(backbone: str, widths: dict[str, int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        grown(small(backbone), **widths)
