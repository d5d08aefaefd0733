"""What a vote has to beat: cuts by hand, in parts as in one, and the surest of each class."""

import math

import pytest
import torch

from cotrain_dist.method.scores import (
    INVALID_UNCERTAINTY,
    decode_confidence,
    encode_uncertainty,
    threshold_code,
)
from cotrain_dist.method.thresholds import (
    adapt_cuts,
    class_limits,
    count_classes,
    cut_of_each,
    fixed_cuts,
    flex_cuts,
    free_cuts,
    no_class_counts,
    ranking_keys,
    within_limits,
)
from cotrain_dist.types import Votes


def votes_of(labels: list[list[int]], confidence: list[list[float]]) -> Votes:
    """A confidence of NaN is an image that could not be scored."""
    return Votes(
        labels=torch.tensor(labels, dtype=torch.uint16),
        uncertainty=encode_uncertainty(torch.tensor(confidence, dtype=torch.float64)),
    )


def codes_of(thresholds: list[float]) -> list[int]:
    return [threshold_code(threshold) for threshold in thresholds]


# Row 0: class 0 is named four times and three times surely, class 1 twice and once, class 2 never.
VOTES = votes_of(
    [[0, 0, 0, 0, 1, 1, 0], [2, 2, 2, 2, 2, 2, 2]],
    [
        [0.9375, 0.9375, 0.9375, 0.5, 0.9375, 0.25, math.nan],
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    ],
)


def test_counts_by_hand() -> None:
    counts = count_classes(VOTES, 3, threshold=0.75)
    assert counts.num_images.tolist() == [[6], [7]]
    assert counts.num_named.tolist() == [[4, 2, 0], [0, 0, 7]]
    assert counts.num_sure.tolist() == [[3, 1, 0], [0, 0, 0]]
    assert counts.mean_confidence.tolist() == [[(4 * 0.9375 + 0.5 + 0.25) / 6], [0.5]]


def test_a_confidence_on_the_threshold_is_not_sure() -> None:
    counts = count_classes(votes_of([[0, 0]], [[0.75, 0.7505]]), 1, threshold=0.75)
    assert counts.num_sure.tolist() == [[1]]


def test_flex_by_hand() -> None:
    cuts = flex_cuts(count_classes(VOTES, 3, threshold=0.75), 0.75)
    # Row 0: the largest is 3, more than the 2 that are left, so beta is 1, 1/3 and 0.
    assert cuts.dtype == torch.int16
    assert cuts[0].tolist() == codes_of([0.75, 0.75 * (1 / 3) / (2 - 1 / 3), 0.0])
    # Row 1 is sure of nothing.
    assert cuts[1].tolist() == codes_of([0.0, 0.0, 0.0])


def test_flex_while_most_images_are_unsure() -> None:
    votes = votes_of([[0, 0, 1, 1, 1, 1]], [[0.9, 0.9, 0.9, 0.3, 0.3, 0.3]])
    cuts = flex_cuts(count_classes(votes, 2, threshold=0.8), 0.8)
    # Three are left, more than the two of the largest class.
    beta = [2 / 3, 1 / 3]
    assert cuts.tolist() == [codes_of([0.8 * own / (2 - own) for own in beta])]


def test_free_by_hand() -> None:
    cuts = free_cuts(count_classes(VOTES, 3, threshold=None))
    mean = (4 * 0.9375 + 0.5 + 0.25) / 6
    assert cuts.tolist() == [codes_of([mean, mean / 2, 0.0]), codes_of([0.0, 0.0, 0.5])]


@pytest.mark.parametrize("policy", ["flex", "free"])
def test_without_images_there_are_cuts_as_well(policy: str) -> None:
    cuts = adapt_cuts(no_class_counts(2, 3), policy, 0.8)
    assert cuts.tolist() == [codes_of([0.0] * 3)] * 2
    nothing = votes_of([[0], [0]], [[math.nan], [math.nan]])
    assert count_classes(nothing, 3, threshold=0.5).values.eq(0).all()


@pytest.mark.parametrize("policy", ["flex", "free"])
def test_parts_give_the_cuts_of_all(policy: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(60_000, 60_020, (3, 5000), generator=generator)
    confidence = torch.rand(3, 5000, generator=generator, dtype=torch.float64) ** 0.3
    confidence[1, ::17] = math.nan
    votes = Votes(labels.to(torch.uint16), encode_uncertainty(confidence))
    counts = no_class_counts(3, 65_535)
    for rows in torch.randperm(5000, generator=generator).split(123):
        part = Votes(labels[:, rows].to(torch.uint16), votes.uncertainty[:, rows])
        counts += count_classes(part, 65_535, threshold=0.8)
    whole = count_classes(votes, 65_535, threshold=0.8)
    assert torch.equal(counts.values, whole.values)
    cuts = adapt_cuts(whole, policy, 0.8)
    assert torch.equal(adapt_cuts(counts, policy, 0.8), cuts)
    assert len(cuts[:, 60_000:60_020].unique()) > 20
    # Every uncertainty is a whole number of the unit, so the mean has no error to speak of.
    scored = votes.uncertainty[1] != INVALID_UNCERTAINTY
    mean = decode_confidence(votes.uncertainty[1][scored]).mean().item()
    assert whole.mean_confidence[1].item() == pytest.approx(mean, rel=1e-14)


def test_an_unknown_policy_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="threshold_policy fixed has cuts without votes"):
        adapt_cuts(no_class_counts(2, 1), "fixed", 0.5)


def test_the_cut_of_each_vote() -> None:
    cuts = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int16)
    assert cut_of_each(cuts, VOTES, 0).tolist() == [1, 1, 1, 1, 2, 2, 1]
    assert cut_of_each(cuts, VOTES, 1).tolist() == [6] * 7
    assert cut_of_each(fixed_cuts(0.75), VOTES, 1).tolist() == codes_of([0.75])


def test_without_a_threshold_all_that_was_scored_is_below_the_cut() -> None:
    cut = int(fixed_cuts(None)[0, 0])
    assert int(encode_uncertainty(torch.tensor(0.0, dtype=torch.float64))) < cut
    assert cut < INVALID_UNCERTAINTY


def _keys_of(labels: list[int], codes: list[int]) -> torch.Tensor:
    return ranking_keys(
        torch.tensor(labels, dtype=torch.uint16),
        torch.tensor(codes, dtype=torch.int16),
        torch.arange(len(labels)) + (1 << 33) - 100,
    )


def test_the_surest_of_each_class_by_hand() -> None:
    labels, codes = [7, 7, 65_535, 7, 0, 7, 65_535], [9, 5, 15_360, 9, 3, 9, 0]
    keys = _keys_of(labels, codes)
    kept = {
        num: within_limits(keys, class_limits(keys, num)).nonzero().flatten().tolist()
        for num in (1, 2, 3, 4, 100)
    }
    # Of class 7 the second image is the surest; the others are equally sure, the lower place wins.
    assert kept == {
        1: [1, 4, 6],
        2: [0, 1, 2, 4, 6],
        3: [0, 1, 2, 3, 4, 6],
        4: [0, 1, 2, 3, 4, 5, 6],
        100: [0, 1, 2, 3, 4, 5, 6],
    }


def test_limits_of_nothing_leave_nothing_out() -> None:
    limits = class_limits(torch.empty(0, dtype=torch.int64), 3)
    assert within_limits(_keys_of([0, 65_535], [15_360, 15_360]), limits).tolist() == [True, True]


def test_the_surest_of_parts_decide_those_of_all() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(50, (4000,), generator=generator).tolist()
    keys = _keys_of(labels, torch.randint(100, (4000,), generator=generator).tolist())
    kept = []
    for part in keys[torch.randperm(4000, generator=generator)].split(700):
        kept.append(part[within_limits(part, class_limits(part, 9))])
        assert len(kept[-1]) < len(part)
    limits = class_limits(torch.cat(kept), 9)
    assert torch.equal(limits, class_limits(keys, 9))
    assert int(within_limits(keys, limits).sum()) == 9 * 50
