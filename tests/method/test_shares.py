"""Steps with a least share of labeled images, and with all classes equally often."""

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from cotrain_dist.method.shares import EpochCut, cut_epoch, mix_steps, smallest_step_up_to
from cotrain_dist.method.steps import num_steps_of, split_into_steps, split_step

KEY = (0, "a", "cotrain", 1)


def mixed(
    num_labeled: int,
    num_pseudo: int,
    batch_size: int,
    fraction: float,
    *,
    balanced: bool = False,
    targets: Tensor | None = None,
    key: tuple[int | str, ...] = KEY,
) -> tuple[Tensor, ...]:
    """The steps of an epoch whose first rows are labeled."""
    num_rows = num_labeled + num_pseudo
    return mix_steps(
        torch.arange(num_rows) >= num_labeled,
        torch.zeros(num_rows, dtype=torch.int64) if targets is None else targets,
        batch_size=batch_size,
        least_labeled_fraction=fraction,
        class_balanced=balanced,
        key=key,
    )


@pytest.mark.parametrize(
    ("num_labeled", "num_pseudo", "batch_size", "fraction", "num_steps", "num_rows"),
    [
        pytest.param(10, 30, 8, 0.0, 5, 40, id="no share asked for"),
        pytest.param(30, 10, 8, 0.5, 5, 40, id="each image once has the share"),
        pytest.param(10, 30, 8, 0.5, 8, 64, id="four of R at most in each of eight steps"),
        pytest.param(10, 1, 8, 0.5, 2, 11, id="one of R"),
        pytest.param(1, 10, 10, 0.9, 10, 100, id="nine of ten, as it is written"),
        pytest.param(1, 3, 8, 0.5, 1, 6, id="no larger than it has to be"),
        pytest.param(5, 5, 4, 0.5, 3, 12, id="the share of all would do, that of a step not"),
        pytest.param(10, 0, 8, 0.9, 2, 10, id="no R"),
        pytest.param(10, 30, 8, 1 / 3, 6, 48, id="a third"),
    ],
)
def test_steps_by_hand(
    num_labeled: int,
    num_pseudo: int,
    batch_size: int,
    fraction: float,
    num_steps: int,
    num_rows: int,
) -> None:
    expected = EpochCut(num_steps, num_rows)
    assert cut_epoch(num_labeled, num_pseudo, batch_size, fraction) == expected


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("batch_size", [2, 7, 16])
def test_every_step_has_its_share_and_every_image_comes(fraction: float, batch_size: int) -> None:
    num_cases = 0
    for num_labeled, num_pseudo in itertools.product((1, 2, 5, 17, 64), (0, 1, 3, 16, 50)):
        if int((1 - fraction) * batch_size) < 1:
            continue
        steps = mixed(num_labeled, num_pseudo, batch_size, fraction)
        cut = cut_epoch(num_labeled, num_pseudo, batch_size, fraction)
        sizes = [len(rows) for rows in steps]
        assert (len(steps), sum(sizes)) == (cut.num_steps, cut.num_rows)
        assert max(sizes) <= batch_size
        assert min(sizes) == cut.smallest_step >= max(sizes) - 1
        for rows in steps:
            assert int((rows < num_labeled).sum()) >= fraction * len(rows)
        counts = Counter(torch.cat(steps).tolist())
        assert set(counts) == set(range(num_labeled + num_pseudo))
        assert {counts[row] for row in range(num_labeled, num_labeled + num_pseudo)} <= {1}
        often = [counts[row] for row in range(num_labeled)]
        assert max(often) - min(often) <= 1, "in passes over all of L"
        num_cases += 1
    assert num_cases == 25 or (batch_size, fraction) in {(2, 0.8), (2, 0.9), (7, 0.9)}


def test_passes_and_epochs_have_orders_of_their_own() -> None:
    steps = mixed(4, 36, 8, 0.5)
    assert all(map(torch.equal, steps, mixed(4, 36, 8, 0.5)))
    other = mixed(4, 36, 8, 0.5, key=(0, "a", "cotrain", 2))
    assert not all(map(torch.equal, steps, other))
    # Four of each step are one pass over L.
    passes = [rows[rows < 4].tolist() for rows in steps]
    assert all(sorted(rows) == [0, 1, 2, 3] for rows in passes)
    assert len({tuple(rows) for rows in passes}) > 3
    assert any(rows[:4].ge(4).any() for rows in steps), "labeled rows do not all come first"


def test_classes_come_equally_often() -> None:
    # Eight rows of class 5, two of class 0, one of class 9; then R.
    targets = torch.tensor([5] * 8 + [0] * 2 + [9] + [3] * 20)
    steps = mixed(11, 20, 6, 0.5, balanced=True, targets=targets)
    drawn = torch.cat(steps)
    assert [int((rows < 11).sum()) for rows in steps] == [3] * 6 + [4]
    counts = Counter(targets[drawn[drawn < 11]].tolist())
    assert sorted(counts) == [0, 5, 9]
    assert max(counts.values()) - min(counts.values()) <= 1
    rows = Counter(drawn.tolist())
    assert {rows[row] for row in range(11, 31)} == {1}
    assert max(rows[row] for row in range(8)) == 1, "of a large class others, before one again"
    assert abs(rows[8] - rows[9]) <= 1


def test_balance_alone_keeps_the_length_of_the_epoch() -> None:
    targets = torch.tensor([1] * 9 + [0] * 3)
    steps = mixed(12, 0, 5, 0.0, balanced=True, targets=targets)
    assert [len(rows) for rows in steps] == [4, 4, 4]
    assert Counter(targets[torch.cat(steps)].tolist()) == {0: 6, 1: 6}
    seen = set()
    for epoch in range(6):
        steps = mixed(12, 0, 5, 0.0, balanced=True, targets=targets, key=(0, epoch))
        seen |= set(torch.cat(steps).tolist())
    assert seen == set(range(12)), "over the epochs all of a large class"


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("batch_size", [4, 7, 16, 64])
def test_the_worst_epoch_of_a_range_is_found(batch_size: int, fraction: float) -> None:
    found = set()
    for num_labeled in (2, 3, 10, 16, 33, 64, 130):
        if int((1 - fraction) * batch_size) < 1:
            continue
        worst = num_labeled
        for num_pseudo in range(300):
            own = cut_epoch(num_labeled, num_pseudo, batch_size, fraction)
            worst = min(worst, own.smallest_step)
            args = (num_labeled, num_pseudo, batch_size, fraction)
            assert smallest_step_up_to(*args) == worst, args
        found.add(worst)
    assert len(found) > 1 or (batch_size, fraction) in {(4, 0.9), (4, 0.75), (7, 0.9)}


@pytest.mark.parametrize("batch_size", [2, 7, 64])
def test_the_smallest_part_is_that_of_the_smallest_step(batch_size: int) -> None:
    found = set()
    cases = itertools.product((1, 2, 5, 63, 64, 65, 130), (1, 2, 3, 5), (1, 2, 3))
    for num_samples, num_ranks, num_micro in cases:
        steps = split_into_steps(torch.arange(num_samples), batch_size)
        assert len(steps) == num_steps_of(num_samples, batch_size)
        least = min(
            len(micro)
            for step in steps
            for micros in split_step(step, num_ranks, num_micro)
            for micro in micros
        )
        smallest = cut_epoch(num_samples, 0, batch_size).smallest_step
        assert smallest // num_ranks // num_micro == least
        found.add(least)
    assert {0, 1} <= found
