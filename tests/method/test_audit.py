"""The promise of labels: kept in as many draws of the audit as it says, at its edges by hand."""

import math

import pytest
import torch
from scipy.stats import binom

from cotrain_dist.method.audit import (
    ALL,
    STEP,
    Cut,
    cut_for_error,
    cut_for_precision,
    least_audit,
    num_more_needed,
)
from cotrain_dist.method.splits import draw_marked

DELTA = 0.05
NUM_DRAWS = 200


def pool(accuracy_of_least: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """2,000 certainties, many of them equal, and labels that are right the oftener the surer."""
    generator = torch.Generator().manual_seed(seed)
    certainties = (torch.rand(2000, generator=generator).double() * 50).round() / 50
    chance = accuracy_of_least + (1.0 - accuracy_of_least) * certainties
    return certainties, torch.rand(2000, generator=generator).double() < chance


def naive_cut(certainties: torch.Tensor, is_right: torch.Tensor, precision: float) -> float:
    """The lowest cut above which the audit itself has that precision."""
    cuts = [value for value in certainties.unique().tolist() if (certainties > value).any()]
    good = [c for c in [ALL, *cuts] if is_right[certainties > c].double().mean() >= precision]
    return min(good, default=math.inf)


@pytest.mark.parametrize("precision", [0.90, 0.95])
@pytest.mark.parametrize("least", [0.3, 0.7])
def test_the_precision_is_kept_in_all_but_delta_of_the_draws(
    precision: float, least: float
) -> None:
    certainties, is_right = pool(least, seed=1)
    broken = {"promise": 0, "naive": 0}
    for draw in range(NUM_DRAWS):
        ids = torch.randperm(2000, generator=torch.Generator().manual_seed(draw))[:200]
        cut = cut_for_precision(certainties[ids], is_right[ids], precision, DELTA)
        aboves = {
            "promise": math.inf if cut is None else cut.above,
            "naive": naive_cut(certainties[ids], is_right[ids], precision),
        }
        for name, above in aboves.items():
            kept = is_right[certainties > above]
            broken[name] += len(kept) > 0 and kept.double().mean().item() < precision
    # As many as chance alone would make exceed the level in one of 10,000 such tests.
    assert broken["promise"] <= binom.ppf(1 - 1e-4, NUM_DRAWS, DELTA)
    assert broken["naive"] > 0.3 * NUM_DRAWS


@pytest.mark.parametrize("right", [0.90, 0.95])
def test_images_that_were_marked_before_the_training_keep_it_too(right: float) -> None:
    """The models have learned some wrong labels of U: they say those again with more confidence."""
    certainties, is_right = pool(0.7, seed=2)
    learned = torch.rand(2000, generator=torch.Generator().manual_seed(3)) < 0.5
    certainties = torch.where(learned, 0.5 + certainties / 2, certainties)
    num_broken = {"precision": 0, "error": 0}
    for seed in range(NUM_DRAWS):
        ids = draw_marked(torch.arange(2000), 200, seed)
        cuts = {
            "precision": cut_for_precision(certainties[ids], is_right[ids], right, DELTA),
            "error": cut_for_error(certainties, certainties[ids], is_right[ids], 1 - right, DELTA),
        }
        for name, cut in cuts.items():
            kept = is_right[certainties > (math.inf if cut is None else cut.above)]
            num_wrong = int((~kept).sum())
            num_broken[name] += num_wrong > (1 - right) * (2000 if name == "error" else len(kept))
    assert max(num_broken.values()) <= binom.ppf(1 - 1e-4, NUM_DRAWS, DELTA)


@pytest.mark.parametrize(("least", "max_error"), [(0.3, 0.05), (0.85, 0.05), (0.3, 0.2)])
def test_the_share_of_wrong_labels_is_kept_in_all_but_delta_of_the_draws(
    least: float, max_error: float
) -> None:
    certainties, is_right = pool(least, seed=2)
    num_broken, num_kept = 0, []
    for draw in range(NUM_DRAWS):
        ids = torch.randperm(2000, generator=torch.Generator().manual_seed(draw))[:200]
        cut = cut_for_error(certainties, certainties[ids], is_right[ids], max_error, DELTA)
        is_kept = certainties > (math.inf if cut is None else cut.above)
        num_broken += int((is_kept & ~is_right).sum()) > max_error * 2000
        num_kept.append(int(is_kept.sum()))
    assert num_broken <= binom.ppf(1 - 1e-4, NUM_DRAWS, DELTA)
    assert sum(num_kept) / NUM_DRAWS > 100


def test_by_hand() -> None:
    """29 right ones pass at 0.9; a wrong one at place 30 ends the walk at 34."""
    certainties = torch.arange(39, 0, -1).double()
    is_right = torch.ones(39, dtype=torch.bool)
    assert cut_for_precision(certainties[:28], is_right[:28], 0.9, DELTA) is None
    assert cut_for_precision(certainties[:29], is_right[:29], 0.9, DELTA) == Cut(ALL, 29, 0)
    is_right[29] = False
    assert binom.cdf(1, 34, 0.1) > DELTA
    assert cut_for_precision(certainties, is_right, 0.9, DELTA) == Cut(10.0, 29, 0)
    assert num_more_needed(34, 1, 0.9, DELTA) == 46 - 34
    assert binom.cdf(1, 46, 0.1) <= DELTA < binom.cdf(1, 45, 0.1)


def test_the_first_cut_that_fails_ends_the_walk() -> None:
    """Two wrong ones among the first 29, and a thousand right ones after them."""
    is_right = torch.ones(1033, dtype=torch.bool)
    is_right[[3, 5]] = False
    certainties = torch.arange(1033, 0, -1).double()
    assert cut_for_precision(certainties, is_right, 0.9, DELTA) is None
    is_right[:] = True
    assert cut_for_precision(certainties, is_right, 0.9, DELTA) == Cut(4.0, 1029, 0)


def test_images_of_one_certainty_are_kept_or_left_together() -> None:
    certainties = torch.tensor([2.0] * 40 + [1.0] * 60).double()
    is_right = torch.cat([torch.ones(40), torch.zeros(60)]).bool()
    # The walk comes to 29, 34 and 39 of 40 equal ones, where no cut is, and then to 44 of 60.
    assert [29 + STEP * i for i in range(4)] == [29, 34, 39, 44]
    assert cut_for_precision(certainties, is_right, 0.9, DELTA) is None
    assert cut_for_precision(certainties, torch.ones(100).bool(), 0.9, DELTA) is None
    exact = torch.tensor([2.0] * 34 + [1.0] * 60).double()
    assert cut_for_precision(exact, exact > 1.5, 0.9, DELTA) == Cut(1.0, 34, 0)


@pytest.mark.parametrize(("error", "least"), [(0.05, 59), (0.01, 299)])
def test_the_smallest_audit_for_a_share_of_wrong_labels(error: float, least: int) -> None:
    assert least_audit(1.0 - error, DELTA) == least
    everywhere = torch.arange(100_000).double()
    ids = torch.arange(least)
    right = torch.ones(least).bool()
    assert cut_for_error(everywhere, everywhere[ids], right, error, DELTA) is not None
    # Without replacement a few less are enough.
    fewer = ids[: least - 3]
    assert cut_for_error(everywhere, everywhere[fewer], right[fewer], error, DELTA) is None
