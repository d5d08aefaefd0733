"""The splits: exact counts, one draw per class, nested labeled fractions, and a T at rest."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Fractions, Split, draw_marked, draw_splits, labeled_limits

SIZES = {"cat": 20, "dog": 10, "eel": 50}


def class_ids_of(sizes: dict[str, int]) -> Tensor:
    return torch.cat([torch.full((size,), i) for i, size in enumerate(sizes.values())])


def draw(
    test: float | int = 0.2,
    validation: float | int = 0.0,
    labeled: float | int = 0.2,
    *,
    seed: int = 0,
    sizes: dict[str, int] = SIZES,
) -> Tensor:
    fractions = Fractions(test=test, validation=validation, labeled=labeled)
    return draw_splits(class_ids_of(sizes), tuple(sizes), fractions, seed)


def counts_by_class(groups: Tensor) -> dict[str, list[int]]:
    """Images of T, V, L_A, L_B and U in each class."""
    class_ids = class_ids_of(SIZES)
    return {
        name: torch.bincount(groups[class_ids == i], minlength=5).tolist()
        for i, name in enumerate(SIZES)
    }


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        (
            (0.2, 0.0, 0.2),
            {"cat": [4, 0, 4, 4, 8], "dog": [2, 0, 2, 2, 4], "eel": [10, 0, 10, 10, 20]},
        ),
        (
            (0.2, 0.1, 0.3),
            {"cat": [4, 2, 6, 6, 2], "dog": [2, 1, 3, 3, 1], "eel": [10, 5, 15, 15, 5]},
        ),
        ((3, 0.0, 2), {"cat": [3, 0, 2, 2, 13], "dog": [3, 0, 2, 2, 3], "eel": [3, 0, 2, 2, 43]}),
        (
            (0.25, 1, 1),
            {"cat": [5, 1, 1, 1, 12], "dog": [2, 1, 1, 1, 5], "eel": [12, 1, 1, 1, 35]},
        ),
    ],
)
def test_counts_of_each_class(
    fractions: tuple[float, float, float], expected: dict[str, list[int]]
) -> None:
    groups = draw(*fractions)
    assert groups.dtype == torch.int64
    assert counts_by_class(groups) == expected  # one group an image: disjoint and complete


def test_group_values_are_those_of_the_table() -> None:
    assert [group.name for group in Split] == ["T", "V", "L_A", "L_B", "U", "OUT"]


def test_larger_labeled_share_holds_every_smaller_one() -> None:
    fractions = [0.1, 0.15, 0.2, 0.25, 0.3]
    drawn = [draw(labeled=fraction) for fraction in fractions]
    for smaller, larger in pairwise(drawn):
        for group in (Split.L_A, Split.L_B):
            assert (larger[smaller == group] == group).all()
            assert (larger == group).sum() > (smaller == group).sum()
        assert torch.equal(smaller == Split.T, larger == Split.T)


@pytest.mark.parametrize("changed", [{"labeled": 0.3}, {"labeled": 1}, {"validation": 0.1}])
def test_no_other_share_moves_the_test_group(changed: dict[str, float]) -> None:
    before, after = draw(), draw(**changed)
    assert not torch.equal(before, after)
    assert torch.equal(before == Split.T, after == Split.T)


def test_labeled_share_does_not_move_the_validation_group() -> None:
    before, after = draw(validation=0.2), draw(validation=0.2, labeled=0.1)
    assert not torch.equal(before, after)
    assert torch.equal(before == Split.V, after == Split.V)


def test_validation_group_is_taken_from_the_pool() -> None:
    without, with_validation = draw(), draw(validation=0.2)
    changed = without != with_validation
    assert (without[changed] == Split.U).all()
    assert (with_validation[changed] == Split.V).all()
    assert changed.sum() == 4 + 2 + 10


def test_same_seed_same_groups_and_other_seed_others() -> None:
    assert torch.equal(draw(seed=3), draw(seed=3))
    assert not torch.equal(draw(seed=3), draw(seed=4))


def test_classes_of_equal_size_are_drawn_differently() -> None:
    groups = draw(sizes={"cat": 50, "dog": 50})
    assert not torch.equal(groups[:50], groups[50:])


def test_other_classes_do_not_influence_a_class() -> None:
    alone = draw(sizes={"cat": 20, "eel": 50})
    later = draw(sizes={"ant": 30, "eel": 50, "bee": 9, "cat": 20})
    assert torch.equal(later[-20:], alone[:20])
    assert torch.equal(later[30:80], alone[20:])


def test_interleaved_classes_are_drawn_like_contiguous_ones() -> None:
    class_ids = torch.arange(60) % 2
    fractions = Fractions(test=0.2, validation=0.0, labeled=0.2)
    mixed = draw_splits(class_ids, ("cat", "dog"), fractions, 0)
    contiguous = draw(sizes={"cat": 30, "dog": 30})
    assert torch.equal(mixed[0::2], contiguous[:30])
    assert torch.equal(mixed[1::2], contiguous[30:])


@pytest.mark.parametrize(
    ("sizes", "fractions", "named"),
    [
        ({"cat": 3, "dog": 20, "eel": 2}, (0.2, 0.0, 0.2), "cat (3 images), eel (2 images)"),
        ({"cat": 0, "dog": 20}, (0.2, 0.0, 0.2), "cat (0 images)"),
        ({"cat": 6, "dog": 8}, (2, 0.0, 2), "cat (6 images)"),
        ({"cat": 5, "dog": 20}, (1, 0.05, 1), "cat (5 images)"),  # V would be empty
    ],
)
def test_classes_that_are_too_small_are_all_named(
    sizes: dict[str, int], fractions: tuple[float, float, float], named: str
) -> None:
    message = f"data.root: {named}: each class needs an image in each of T"
    with pytest.raises(UserError, match=re.escape(message)):
        draw(*fractions, sizes=sizes)


def test_smallest_class_that_fills_every_group() -> None:
    assert sorted(draw(1, 0.0, 1, sizes={"cat": 4}).tolist()) == [0, 2, 3, 4]
    assert sorted(draw(1, 1, 1, sizes={"cat": 5}).tolist()) == [0, 1, 2, 3, 4]


def test_limits_of_the_labeled_fraction() -> None:
    fractions = Fractions(test=0.2, validation=0.0, labeled=0.5)
    # 20 images: one for each L from 0.5 / 20 on; 4 of T and one of U leave at most 7 for each.
    assert labeled_limits([20, 100], fractions) == (0.0251, 0.3749)
    for fraction in (0.0251, 0.3749):
        class_ids = torch.arange(20) * 0
        draw_splits(class_ids, ["x"], replace(fractions, labeled=fraction), seed=0)


@pytest.mark.parametrize("num_images", [11, 51, 101])
def test_the_largest_labeled_share_leaves_the_pool_a_fraction(num_images: int) -> None:
    """Rounding leaves U an image there also where T, L_A and L_B take more than all."""
    fractions = Fractions(test=0.2, validation=0.0, labeled=0.1)
    assert labeled_limits([num_images], fractions)[1] == 0.3999


def test_classes_too_small_for_any_labeled_fraction() -> None:
    fractions = Fractions(test=1, validation=0, labeled=0.5)
    with pytest.raises(UserError, match=r"data\.root: 3 images in the smallest class: no labeled"):
        labeled_limits([50, 3], fractions)


def test_marked_images_are_a_keyed_draw_from_u() -> None:
    pool = torch.arange(3, 103)
    drawn = [set(draw_marked(pool, num, seed=0).tolist()) for num in (0, 1, 20, 60, 100)]
    assert list(map(len, drawn)) == [0, 1, 20, 60, 100]
    assert all(smaller < larger for smaller, larger in pairwise(drawn))
    assert drawn[-1] == set(pool.tolist())
    assert set(draw_marked(pool, 20, seed=1).tolist()) != drawn[2]
    # Who was labeled since was none of the marked: those would be too many in what is left.
    left = pool[torch.isin(pool, torch.tensor(sorted(drawn[2]))) | (pool > 60)]
    again = set(draw_marked(left, 20, seed=0).tolist())
    assert 0 < len(again & drawn[2]) < 20
    with pytest.raises(UserError, match=r"data.audit_images: 101: is drawn from U, which has 100"):
        draw_marked(pool, 101, seed=0)


def test_each_image_of_u_is_equally_likely_to_be_marked() -> None:
    counts = torch.zeros(4)
    for seed in range(1000):
        counts[draw_marked(torch.arange(4), 1, seed)] += 1
    assert (counts - 250).abs().max() < 60  # 4 standard deviations
