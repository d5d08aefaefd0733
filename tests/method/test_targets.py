"""Soft targets: hand-computed cases."""

import pytest
import torch

from cotrain_dist.config import SelectionConfig
from cotrain_dist.method.scores import encode_uncertainty
from cotrain_dist.method.targets import log_probs, sharpen
from cotrain_dist.training.probabilities import select_with_probs
from cotrain_dist.types import Votes


def test_sharpened_by_hand() -> None:
    # 0.8 : 0.2 is 4 : 1, its square 16 : 1.
    sharp = sharpen(torch.tensor([[0.8, 0.2, 0.0]], dtype=torch.float64), 2.0)
    assert torch.allclose(sharp, torch.tensor([[16 / 17, 1 / 17, 0.0]], dtype=torch.float64))


def test_a_power_of_one_changes_no_bit() -> None:
    probs = torch.rand(3, 4)
    assert torch.equal(sharpen(probs, 1.0), probs)


def test_a_class_without_probability_has_a_finite_logarithm() -> None:
    assert log_probs(torch.tensor([[1.0, 0.0]])).isfinite().all()


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_images_are_learned_though_a_class_has_no_probability(targets: str) -> None:
    """As where a class has no label: no head ever names it."""
    votes = Votes(
        torch.tensor([[0, 1], [1, 1]]).to(torch.uint16), encode_uncertainty(torch.full((2, 2), 0.6))
    )
    probs = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.9, 0.0]], dtype=torch.float64)
    selection = SelectionConfig(rule="mean_soft", targets=targets)  # type: ignore[arg-type]
    exchanged = select_with_probs(votes, probs, torch.tensor([5, 9]), selection)
    for part in (exchanged.a, exchanged.b):
        assert part.sample_ids.tolist() == [5, 9]
        assert part.labels.tolist() == [0, 1]
        if targets == "soft":
            assert part.probs is not None
            assert torch.equal(part.probs, probs.half())
        else:
            assert part.probs is None
