"""Mixup and CutMix by hand: images, targets and weights go together."""

import numpy as np
import pytest
import torch

from cotrain_dist.method.losses import cross_entropy
from cotrain_dist.method.mixing import Mixing, cut_box, draw_mixing, draw_partners, mix_batch
from cotrain_dist.types import Batch

SIDE = 4
SWAPPED = torch.tensor([1, 0, 2])


def batch(weights: list[float] | None = None, probs: torch.Tensor | None = None) -> Batch:
    """Three images of one value each: 0, 1 and 2."""
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, SIDE, SIDE).clone()
    return Batch(
        views=(images,),
        targets=torch.tensor([0, 1, 1]),
        is_pseudo=torch.tensor([False, False, True]),
        weights=None if weights is None else torch.tensor(weights),
        probs=probs,
    )


def test_mixup_is_a_weighted_mean_of_images_and_of_targets() -> None:
    mixed = mix_batch(batch(), Mixing(0.75), SWAPPED, num_classes=2)
    values = mixed.views[0][:, 0, 0, 0].tolist()
    assert values == pytest.approx([0.25, 0.75, 2.0])
    assert mixed.probs is not None
    assert mixed.probs.flatten().tolist() == pytest.approx([0.75, 0.25, 0.25, 0.75, 0.0, 1.0])
    assert mixed.weights is None
    assert torch.equal(mixed.is_pseudo, batch().is_pseudo)


def test_the_loss_is_the_weighted_mean_of_both_losses() -> None:
    """As in both papers: λ CE(own target) + (1 - λ) CE(other target), each with its weight."""
    logits = torch.tensor([[0.3, -0.2], [1.0, 2.0], [-0.5, 0.1]])
    for weights in (None, [1.0, 0.5, 2.0]):
        plain, kept = batch(weights), 0.7
        mixed = mix_batch(plain, Mixing(kept), SWAPPED, num_classes=2)
        other = Batch(
            (),
            plain.targets[SWAPPED],
            plain.is_pseudo,
            None if plain.weights is None else plain.weights[SWAPPED],
        )
        expected = kept * cross_entropy(logits, plain, label_smoothing=0.1)
        expected += (1 - kept) * cross_entropy(logits, other, label_smoothing=0.1)
        found = cross_entropy(logits, mixed, label_smoothing=0.1)
        torch.testing.assert_close(found, expected)


def test_a_weight_of_nothing_takes_nothing_from_its_partner() -> None:
    mixed = mix_batch(batch([0.0, 1.0, 0.0]), Mixing(0.25), SWAPPED, num_classes=2)
    assert mixed.weights is not None
    assert mixed.probs is not None
    assert mixed.weights.tolist() == [0.75, 0.25, 0.0]
    # All that counts of the first two is the target of the second one.
    assert mixed.probs.tolist() == [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]


def test_cutmix_takes_a_box_and_its_area_decides() -> None:
    """A box of all the area, of which three quarters would lie outside: a quarter comes over."""
    plain, mixing = batch(), Mixing(0.0, (0.0, 0.0))
    assert cut_box(mixing, SIDE) == (0, 0, 2, 2)
    mixed = mix_batch(plain, mixing, SWAPPED, num_classes=2)
    expected = torch.zeros(SIDE, SIDE)
    expected[:2, :2] = 1.0
    assert torch.equal(mixed.views[0][0, 0], expected)
    assert mixed.probs is not None
    assert mixed.probs.tolist() == [[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    assert torch.equal(plain.views[0], batch().views[0]), "the images given stay"


@pytest.mark.parametrize(
    ("kept", "center", "box"),
    [
        (1.0, (0.5, 0.5), (4, 4, 4, 4)),
        (0.0, (0.5, 0.5), (0, 0, 8, 8)),
        (0.0, (0.0, 0.0), (0, 0, 4, 4)),
        (0.75, (1.0, 1.0), (5, 5, 8, 8)),
    ],
)
def test_boxes_at_the_ends(
    kept: float, center: tuple[float, float], box: tuple[int, int, int, int]
) -> None:
    assert cut_box(Mixing(kept, center), 8) == box


def test_soft_targets_are_mixed_as_they_are() -> None:
    probs = torch.tensor([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]])
    mixed = mix_batch(batch(probs=probs), Mixing(0.5), SWAPPED, num_classes=2)
    assert mixed.probs is not None
    torch.testing.assert_close(mixed.probs[0], torch.tensor([0.35, 0.65]))
    assert torch.equal(mixed.probs[2], probs[2])


@pytest.mark.parametrize("mixing", [Mixing(0.3), Mixing(0.6), Mixing(0.3, (0.2, 0.9))])
def test_an_image_that_is_its_own_partner_keeps_its_bits(mixing: Mixing) -> None:
    images = torch.randn(5, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    plain = Batch((images, -images), torch.arange(5), torch.zeros(5, dtype=torch.bool))
    mixed = mix_batch(plain, mixing, torch.arange(5), num_classes=5)
    assert torch.equal(mixed.views[0], images)
    assert torch.equal(mixed.views[1], -images)
    assert mixed.probs is not None
    assert torch.equal(mixed.probs, torch.eye(5))


def test_a_batch_of_no_image_is_no_special_case() -> None:
    nothing = Batch((torch.empty(0, 3, 4, 4),), torch.empty(0, dtype=torch.int64), torch.empty(0))
    for mixing in (Mixing(0.5), Mixing(0.5, (0.5, 0.5))):
        mixed = mix_batch(nothing, mixing, draw_partners(0, "key"), num_classes=3)
        assert mixed.views[0].shape == (0, 3, 4, 4)
        assert mixed.probs is not None
        assert mixed.probs.shape == (0, 3)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_what_is_kept_has_the_moments_of_beta(alpha: float) -> None:
    kept = np.array([draw_mixing(alpha, 0.0, "test", step).kept for step in range(4000)])
    assert kept.min() >= 0.0
    assert kept.max() <= 1.0
    assert kept.mean() == pytest.approx(0.5, abs=0.02)
    assert kept.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)


def test_the_key_alone_decides() -> None:
    state = torch.get_rng_state()
    first = draw_mixing(0.2, 1.0, 0, "mix", "a", 1)
    torch.rand(3)
    assert draw_mixing(0.2, 1.0, 0, "mix", "a", 1) == first
    assert draw_mixing(0.2, 1.0, 0, "mix", "a", 2) != first
    partners = draw_partners(50, 0, "mix", "a", 1)
    assert torch.equal(draw_partners(50, 0, "mix", "a", 1), partners)
    assert not torch.equal(draw_partners(50, 0, "mix", "a", 2), partners)
    assert sorted(partners.tolist()) == list(range(50))
    torch.set_rng_state(state)
    draw_partners(5, "key")
    assert torch.equal(torch.get_rng_state(), state)


def test_one_of_two_by_a_coin_and_one_alone_always() -> None:
    both = [draw_mixing(0.2, 1.0, "coin", step).center is None for step in range(1000)]
    assert 400 < sum(both) < 600
    assert all(draw_mixing(0.2, 0.0, "coin", step).center is None for step in range(50))
    assert all(draw_mixing(0.0, 1.0, "coin", step).center is not None for step in range(50))
