"""FixMatch and FreeMatch by hand."""

import math

import pytest
import torch
from torch import Tensor

from cotrain_dist.method.consistency import (
    POINT,
    FreeState,
    consistency_loss,
    fairness_loss,
    fixed_thresholds,
    follow,
    free_thresholds,
    make_lesson,
    sharpen,
    sum_labels,
    sum_strong,
)
from cotrain_dist.types import Lesson

CPU = torch.device("cpu")

# Sums of powers of two are exact, so figures by hand are exact too.
PROBS = torch.tensor(
    [[0.75, 0.125, 0.125], [0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5]]
)


def free(threshold: float, probs: list[float], histogram: list[float]) -> FreeState:
    return FreeState(
        *(torch.tensor(values, dtype=torch.float64) for values in (threshold, probs, histogram))
    )


def random_probs(num: int, num_classes: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(num)
    return (3 * torch.randn(num, num_classes, generator=generator)).softmax(dim=1)


def test_fixmatch_uses_what_reaches_the_threshold() -> None:
    lesson = make_lesson(PROBS, fixed_thresholds(0.75, 3, CPU), "hard")
    assert lesson.is_used.tolist() == [True, False, True, False]  # equal to it is enough
    assert lesson.probs.argmax(dim=1).tolist() == [0, 0, 1, 2]
    assert lesson.probs.sum(dim=1).tolist() == [1.0] * 4
    assert make_lesson(PROBS, fixed_thresholds(0.0, 3, CPU), "hard").is_used.all()
    assert not make_lesson(PROBS, fixed_thresholds(0.76, 3, CPU), "hard").is_used.any()


def test_of_equal_classes_the_first_is_the_label() -> None:
    even = torch.full((1, 3), 1 / 3)
    assert make_lesson(even, fixed_thresholds(0.0, 3, CPU), "hard").probs.tolist() == [[1, 0, 0]]


def test_soft_targets_are_the_teachers_probabilities() -> None:
    assert make_lesson(PROBS, fixed_thresholds(0.5, 3, CPU), "soft").probs is PROBS
    with pytest.raises(AssertionError, match="is no value of the config"):
        make_lesson(PROBS, fixed_thresholds(0.5, 3, CPU), "none")


def test_the_loss_sums_over_used_images_alone() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [0.0, math.log(7.0)]])
    probs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    # -log of 3/4, 1/2; then 1/4 of -log 1/8 and 3/4 of -log 7/8
    by_hand = [math.log(4 / 3), math.log(2), math.log(8) / 4 + 3 * math.log(8 / 7) / 4]
    for used in ([True, True, True], [True, False, True], [False] * 3):
        loss = consistency_loss(logits, Lesson(probs, torch.tensor(used)))
        expected = sum(own for own, counts in zip(by_hand, used, strict=True) if counts)
        assert loss.item() == pytest.approx(expected)
    nothing = Lesson(torch.empty(0, 2), torch.empty(0, dtype=torch.bool))
    assert consistency_loss(torch.empty(0, 2), nothing).item() == 0.0


def test_sharpening_leaves_the_top_class_and_makes_it_surer() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    assert sharpen(logits, 1.0) is logits
    sharp, plain = sharpen(logits, 0.5).softmax(dim=1), logits.softmax(dim=1)
    torch.testing.assert_close(sharp, plain**2 / (plain**2).sum())


def test_the_running_means_by_hand() -> None:
    """With m = 1/2, from 1/C: τ = (1/3 + 5/8) / 2; p̃ and h̃ likewise."""
    state = follow(FreeState.at_start(3), sum_labels(PROBS), 0.5)
    means = [13 / 32, 11 / 32, 8 / 32]
    assert state.threshold.item() == pytest.approx((1 / 3 + 0.625) / 2)
    assert state.probs.tolist() == pytest.approx([(1 / 3 + mean) / 2 for mean in means])
    shares = [0.5, 0.25, 0.25]
    assert state.histogram.tolist() == pytest.approx([(1 / 3 + share) / 2 for share in shares])
    assert state.probs.sum().item() == pytest.approx(1.0)


def test_without_momentum_the_state_is_that_of_the_step() -> None:
    state = follow(FreeState.at_start(3), sum_labels(PROBS), 0.0)
    assert state.threshold.item() == 0.625
    assert state.probs.tolist() == [13 / 32, 11 / 32, 8 / 32]
    assert state.histogram.tolist() == [0.5, 0.25, 0.25]


def test_thresholds_follow_the_class() -> None:
    """τ(c) = τ p̃(c) / max p̃: a class that is seldom named is learned from less sure images."""
    state = free(0.5, [0.5, 0.25, 0.125], [1 / 3] * 3)
    assert free_thresholds(state).tolist() == [0.5, 0.25, 0.125]
    lesson = make_lesson(PROBS, free_thresholds(free(0.75, [0.5, 0.25, 0.25], [1] * 3)), "hard")
    assert lesson.is_used.tolist() == [True, False, True, True]
    start = free_thresholds(FreeState.at_start(4))
    assert start.tolist() == [0.25] * 4


def test_one_class_alone() -> None:
    """A teacher that names one class for all: the others' thresholds fall towards nothing."""
    probs = torch.tensor([[1.0, 0.0]] * 5)
    state = FreeState.at_start(2)
    for _ in range(200):
        state = follow(state, sum_labels(probs), 0.9)
    assert free_thresholds(state)[0].item() == pytest.approx(1.0)
    assert 0.0 < free_thresholds(state)[1].item() < 1e-8


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7])
def test_sums_over_parts_are_exact_in_any_cut_and_order(num_parts: int) -> None:
    probs = random_probs(41)
    whole = sum_labels(probs)
    parts = [sum_labels(part) for part in probs.tensor_split(num_parts)]
    assert torch.equal(sum(parts[1:], parts[0]), whole)
    assert torch.equal(sum_labels(probs.flip(0)), whole)
    assert whole[0].item() / POINT == pytest.approx(probs.max(dim=1).values.double().sum().item())
    assert whole[6:].sum().item() == 41


def test_a_part_without_images_adds_nothing() -> None:
    assert not sum_labels(torch.empty(0, 5)).any()
    own, sums = sum_strong(torch.empty(0, 5), torch.empty(0, dtype=torch.bool))
    assert not own.any()
    assert not sums.any()


def test_the_fairness_loss_by_hand() -> None:
    """Two used images; strong views say (3/4, 1/4) and (1/4, 3/4): p̄ and h̄ are both even."""
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)], [5.0, 0.0]])
    is_used = torch.tensor([True, True, False])
    state = free(0.5, [0.6, 0.4], [0.75, 0.25])
    own, sums = sum_strong(logits, is_used)
    assert own.tolist() == pytest.approx([1.0, 1.0])
    assert sums[2:].tolist() == [1, 1]
    # SumNorm(0.8, 1.6) = (1/3, 2/3); SumNorm(1, 1) = (1/2, 1/2).
    loss = fairness_loss(state, own, sums)
    assert loss.item() == pytest.approx(math.log(0.5))
    # p̄ = (5/8, 3/8), h̄ = (1, 0): the second class has no image, so nothing of it is left.
    own, sums = sum_strong(logits, torch.tensor([True, False, False]))
    loss = fairness_loss(state, own, sums)
    assert loss.item() == pytest.approx(math.log(1.0) / 3 + 2 / 3 * math.log(1e-12))


def test_without_a_used_image_there_is_no_fairness_loss() -> None:
    logits = torch.zeros(3, 2, requires_grad=True)
    own, sums = sum_strong(logits, torch.zeros(3, dtype=torch.bool))
    loss = fairness_loss(FreeState.at_start(2), own, sums)
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("num_parts", [2, 3])
def test_gradients_of_parts_are_those_of_the_whole(num_parts: int) -> None:
    """What several ranks do: each has the value of all images and its own part of the gradient."""
    logits = 2 * torch.randn(17, 4, generator=torch.Generator().manual_seed(1))
    is_used = torch.arange(17) % 3 > 0
    state = free(0.5, [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4])

    whole = logits.clone().requires_grad_()
    expected = fairness_loss(state, *sum_strong(whole, is_used))
    expected.backward()

    parts = [part.clone().requires_grad_() for part in logits.tensor_split(num_parts)]
    used = is_used.tensor_split(num_parts)
    found = [sum_strong(part, own) for part, own in zip(parts, used, strict=True)]
    sums = torch.stack([sums for _, sums in found]).sum(dim=0)
    for own, _ in found:
        loss = fairness_loss(state, own, sums)
        assert loss.item() == expected.item()
        loss.backward()
    gradient = torch.cat([part.grad for part in parts if part.grad is not None])
    assert whole.grad is not None
    assert whole.grad.abs().max() > 1e-3
    torch.testing.assert_close(gradient, whole.grad)


def test_the_gradient_is_that_of_the_formula() -> None:
    """Against finite differences, where the top classes do not change."""
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    state, is_used = free(0.5, [0.5, 0.3, 0.2], [0.2, 0.4, 0.4]), torch.ones(6, dtype=torch.bool)

    def loss_of(values: Tensor) -> Tensor:
        probs = values.softmax(dim=1)
        histogram = torch.bincount(probs.argmax(dim=1), minlength=3) / 6
        shares = torch.where(histogram > 0, probs.mean(dim=0) / histogram.clamp_min(1e-9), 0.0)
        wanted = state.probs / state.histogram
        return (wanted / wanted.sum() * (shares / shares.sum() + 1e-12).log()).sum()

    own = logits.float().requires_grad_()
    loss = fairness_loss(state, *sum_strong(own, is_used))
    assert loss.item() == pytest.approx(loss_of(logits).item(), abs=1e-6)
    loss.backward()
    step = 1e-6
    for row, column in ((0, 0), (3, 1), (5, 2)):
        moved = logits.clone()
        moved[row, column] += step
        slope = (loss_of(moved) - loss_of(logits)) / step
        assert own.grad is not None
        assert own.grad[row, column].item() == pytest.approx(slope.item(), abs=1e-4)
