"""Losses by hand."""

import dataclasses
import math

import pytest
import torch

from cotrain_dist.method.losses import batch_loss, cross_entropy
from cotrain_dist.types import Batch

LOGITS = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(7.0)]])
TARGETS = torch.tensor([1, 0, 0])
# -log of the target's probability: 1/2, 3/4, 1/8
BY_HAND = [math.log(2), math.log(4 / 3), math.log(8)]


def batch(weights: list[float] | None = None) -> Batch:
    is_pseudo = torch.tensor([False, False, True])
    return Batch((), TARGETS, is_pseudo, None if weights is None else torch.tensor(weights))


def test_cross_entropy_is_summed_over_images() -> None:
    loss = cross_entropy(LOGITS, batch(), label_smoothing=0.0)
    assert loss.item() == pytest.approx(sum(BY_HAND))
    named = batch_loss("cross_entropy", [LOGITS], batch(), label_smoothing=0.0)
    assert named.item() == loss.item()


def test_each_image_counts_by_its_weight() -> None:
    loss = cross_entropy(LOGITS, batch([1.0, 0.0, 0.5]), label_smoothing=0.0)
    assert loss.item() == pytest.approx(BY_HAND[0] + 0.5 * BY_HAND[2])


def test_smoothing_spreads_a_part_of_the_target_evenly() -> None:
    """Of two classes each gets half of the smoothed part."""
    other = [math.log(2), math.log(4), math.log(8 / 7)]
    expected = sum(0.9 * own + 0.1 * rest for own, rest in zip(BY_HAND, other, strict=True))
    for weights in (None, [1.0, 1.0, 1.0]):
        loss = cross_entropy(LOGITS, batch(weights), label_smoothing=0.2)
        assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_weights_of_one_change_no_bit_of_the_gradient(label_smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for num_images in (1, 7, 64, 100):
        logits = 5 * torch.randn(num_images, 102, generator=generator)
        targets = torch.randint(0, 102, (num_images,), generator=generator)
        gradients = []
        for weights in (None, torch.ones(num_images)):
            own = logits.clone().requires_grad_()
            rows = Batch((), targets, torch.zeros(num_images, dtype=torch.bool), weights)
            (cross_entropy(own, rows, label_smoothing=label_smoothing) / 64).backward()
            gradients.append(own.grad)
        assert torch.equal(gradients[0], gradients[1])


def test_distributions_take_the_place_of_hard_targets() -> None:
    """A quarter of the first class's loss and three of the second's; one-hot is the hard target."""
    probs = torch.tensor([[0.25, 0.75], [1.0, 0.0], [1.0, 0.0]])
    soft = dataclasses.replace(batch([1.0, 0.0, 2.0]), probs=probs)
    loss = cross_entropy(LOGITS, soft, label_smoothing=0.0)
    assert loss.item() == pytest.approx(math.log(2) + 2 * BY_HAND[2])
    for weights in (None, [1.0, 0.5, 2.0]):
        hard = batch(weights)
        one_hot = dataclasses.replace(hard, probs=torch.eye(2)[TARGETS])
        for label_smoothing in (0.0, 0.2):
            torch.testing.assert_close(
                cross_entropy(LOGITS, one_hot, label_smoothing=label_smoothing),
                cross_entropy(LOGITS, hard, label_smoothing=label_smoothing),
            )
