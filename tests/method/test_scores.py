"""Votes: codes that order like uncertainty, top classes, and logits that are not finite."""

import math

import pytest
import torch

from cotrain_dist.method.scores import (
    INVALID_UNCERTAINTY,
    LARGEST_UNCERTAINTY,
    encode_uncertainty,
    threshold_code,
    to_probs,
    vote,
)


def codes_of(*confidences: float) -> list[int]:
    codes = encode_uncertainty(torch.tensor(confidences, dtype=torch.float64))
    assert codes.dtype == torch.int16
    return [int(code) for code in codes]


@pytest.mark.parametrize(
    ("confidence", "code"),
    [
        (1.0, 0),
        (1.0 - 2.0**-24, 1),  # the smallest float16 above 0
        (1.0 - 2.0**-14, 0x0400),  # the smallest normal one
        (0.75, 0x3400),
        (0.5, 0x3800),
        (0.0, LARGEST_UNCERTAINTY),
        (1.0 + 1e-12, 0),  # rounding in a softmax
        (math.nan, INVALID_UNCERTAINTY),
        (math.inf, INVALID_UNCERTAINTY),
    ],
)
def test_code_is_float16_of_one_minus_confidence(confidence: float, code: int) -> None:
    assert codes_of(confidence) == [code]


def test_codes_order_like_uncertainty() -> None:
    uncertainty = torch.logspace(-9, 0, 100_000, dtype=torch.float64)
    codes = encode_uncertainty(1.0 - uncertainty).int()
    assert (codes.diff() >= 0).all()
    assert len(codes.unique()) > 14_000
    assert codes[-1] == LARGEST_UNCERTAINTY < INVALID_UNCERTAINTY


@pytest.mark.parametrize(("surer", "less_sure"), [(1 - 1e-4, 1 - 2e-4), (1 - 1e-6, 1 - 3e-6)])
def test_codes_tell_confidences_apart_that_float16_takes_for_1(
    surer: float, less_sure: float
) -> None:
    both = torch.tensor([surer, less_sure], dtype=torch.float64)
    assert both.half().tolist() == [1.0, 1.0]
    code, larger_code = codes_of(surer, less_sure)
    assert code < larger_code


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 0.999])
def test_threshold_has_the_code_of_an_equal_confidence(threshold: float) -> None:
    cut = threshold_code(threshold)
    assert codes_of(threshold) == [cut]
    surer, less_sure = codes_of(threshold + 2e-3 * (1 - threshold), threshold - 2e-3)
    assert surer < cut < less_sure


def test_vote_names_the_top_class_and_its_uncertainty() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]))
    votes = vote(logits)
    assert votes.labels.dtype == torch.uint16
    assert votes.labels.tolist() == [1, 2]
    assert votes.uncertainty.tolist() == codes_of(0.5, 0.75)


def test_first_of_equal_classes_wins() -> None:
    votes = vote(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 7.0, 7.0, 2.0]]))
    assert votes.labels.tolist() == [0, 1]
    assert votes.uncertainty[0] == codes_of(0.25)[0]


def test_uncertainty_is_exact_near_confidence_1() -> None:
    # 1 - c = 1 / (1 + e^x): float32 softmax would give 1 - c = 0 for the last two.
    gaps = [8.0, 12.0, 16.0, 17.0]
    votes = vote(torch.tensor([[gap, 0.0] for gap in gaps]))
    expected = [1.0 / (1.0 + math.exp(gap)) for gap in gaps]
    found = votes.uncertainty.view(torch.float16).double().tolist()
    assert found == pytest.approx(expected, rel=2**-11, abs=2**-25)
    assert votes.uncertainty[3] > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_row_that_is_not_finite_is_invalid(bad: float) -> None:
    votes = vote(torch.tensor([[0.0, 3.0], [5.0, bad], [9.0, 0.0]]))
    assert votes.labels.tolist() == [1, 0, 0]
    assert votes.uncertainty[1] == INVALID_UNCERTAINTY
    assert (votes.uncertainty[[0, 2]] < codes_of(0.5)[0]).all()


def test_large_finite_logits_are_valid() -> None:
    votes = vote(torch.tensor([[3e38, -3e38]]))
    assert (votes.labels.tolist(), votes.uncertainty.tolist()) == ([0], [0])


def test_class_ids_above_the_int16_range() -> None:
    logits = torch.zeros(1, 40_000)
    logits[0, 39_999] = 20.0
    assert vote(logits).labels.to(torch.int64).tolist() == [39_999]


def test_vote_on_no_images() -> None:
    votes = vote(torch.empty(0, 3))
    assert votes.labels.shape == votes.uncertainty.shape == (0,)
    assert (votes.labels.dtype, votes.uncertainty.dtype) == (torch.uint16, torch.int16)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_probs_of_a_row_that_is_not_finite_are_uniform(bad: float) -> None:
    probs = to_probs(torch.tensor([[0.0, math.log(3.0)], [bad, 1.0]]))
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
