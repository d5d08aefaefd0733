"""What both models call U, counted by hand."""

import math

import pytest
import torch

from cotrain_dist.method.metrics import PoolCounts, count_pool, no_counts
from cotrain_dist.method.scores import INVALID_UNCERTAINTY, decode_confidence, encode_uncertainty
from cotrain_dist.method.thresholds import fixed_cuts
from cotrain_dist.types import Votes

NUM_CLASSES = 40_000
"""More than an int16 can name."""


def votes_of(labels: list[list[int]], confidence: list[list[float]]) -> Votes:
    return Votes(
        labels=torch.tensor(labels, dtype=torch.uint16),
        uncertainty=encode_uncertainty(torch.tensor(confidence, dtype=torch.float64)),
    )


def test_counts_by_hand() -> None:
    votes = votes_of(
        [[0, 1, 2, 0, 1], [0, 1, 1, 1, 1]],
        [[0.95, 0.45, 0.99, 0.15, 0.5], [0.55, 0.41, 0.35, 0.92, 0.5]],
    )
    truth = torch.tensor([0, 0, 2, 1, -1])  # the last one's is unknown
    pool = count_pool(votes, truth, 3, cuts=fixed_cuts(0.8)).describe()
    assert pool is not None

    def places(part: str) -> tuple[list[int], list[int]]:
        counts = pool[part]
        images = [i for i, n in enumerate(counts["num_images"]) for _ in range(n)]
        right = [i for i, n in enumerate(counts["num_right"]) for _ in range(n)]
        return images, right

    assert places("agree_a") == ([4, 9], [9])
    assert places("agree_b") == ([4, 5], [5])
    assert places("differ_a") == ([1, 9], [9])
    assert places("differ_b") == ([3, 9], [9])

    by_class = {
        part: (counts["num_images_by_class"], counts["num_right_by_class"])
        for part, counts in pool.items()
    }
    assert by_class["agree_a"] == by_class["agree_b"] == ([1, 1, 0], [1, 0, 0])
    assert by_class["differ_a"] == ([1, 0, 1], [0, 0, 1])
    assert by_class["differ_b"] == ([0, 2, 0], [0, 1, 0])


def test_nothing_is_said_without_true_labels() -> None:
    votes = votes_of([[0], [1]], [[0.9], [0.4]])
    counts = count_pool(votes, torch.tensor([-1]), 2, cuts=fixed_cuts(0.8))
    assert counts.describe() is None
    assert counts.agreement_rate == 0.0


def test_images_that_were_not_scored_are_left_out() -> None:
    votes = votes_of([[0, 0], [0, 0]], [[0.9, 0.9], [0.9, 0.9]])
    votes.uncertainty[1, 0] = INVALID_UNCERTAINTY
    pool = count_pool(votes, torch.tensor([0, 0]), 1, cuts=fixed_cuts(0.8)).describe()
    assert pool is not None
    assert sum(pool["agree_a"]["num_images"]) == 1
    assert pool["agree_a"]["num_images_by_class"] == [1]


def test_images_that_were_not_scored_agree_on_nothing() -> None:
    labels = torch.tensor([[0, 0, 1, 2, 0], [0, 0, 1, 1, 0]]).to(torch.uint16)
    uncertainty = encode_uncertainty(torch.full((2, 5), 0.5))
    uncertainty[1, 1] = INVALID_UNCERTAINTY
    uncertainty[:, 4] = INVALID_UNCERTAINTY
    counts = count_pool(Votes(labels, uncertainty), torch.full((5,), -1), 3, cuts=fixed_cuts(0.8))
    assert counts.agreement_rate == pytest.approx(2 / 5)


def test_equal_codes_are_counted_by_image_not_by_model() -> None:
    confidence = [[0.8, 0.8, 0.5, 0.9, float("nan")], [0.8, 0.5, 0.8, 0.9, 0.5]]
    votes = votes_of([[0] * 5, [1] * 5], confidence)
    counts = count_pool(votes, torch.zeros(5, dtype=torch.int64), 2, cuts=fixed_cuts(0.8))
    assert counts.num_equal_codes == 3


def test_no_images_agree_at_no_rate() -> None:
    votes = votes_of([[], []], [[], []])
    counts = count_pool(votes, torch.zeros(0, dtype=torch.int64), 2, cuts=fixed_cuts(0.8))
    assert torch.equal(counts.values, no_counts(2).values)
    assert math.isnan(counts.agreement_rate)
    assert counts.describe() is None


def _described_plainly(votes: Votes, truth: torch.Tensor) -> dict[str, dict[str, list[int]]]:
    """Image by image, as the docstring of `PoolCounts` says."""
    described = {
        f"{name}_{role}": {
            kind: [0] * (NUM_CLASSES if "class" in kind else 10)
            for kind in ("num_images", "num_right", "num_images_by_class", "num_right_by_class")
        }
        for name in ("agree", "differ")
        for role in "ab"
    }
    for image, true in enumerate(truth.tolist()):
        labels, codes = votes.labels[:, image].tolist(), votes.uncertainty[:, image]
        if true < 0 or INVALID_UNCERTAINTY in codes.tolist():
            continue
        for role, label, confidence in zip("ab", labels, decode_confidence(codes), strict=True):
            part = described[f"{'agree' if labels[0] == labels[1] else 'differ'}_{role}"]
            for kind in ("num_images", "num_right") if label == true else ("num_images",):
                part[kind][min(int(confidence * 10), 9)] += 1
                part[f"{kind}_by_class"][label] += 1
    return described


def test_counts_of_parts_add_up_to_those_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (2, 3000), generator=generator)
    labels[:, ::7] = NUM_CLASSES - 1
    confidence = torch.rand(2, 3000, generator=generator, dtype=torch.float64)
    confidence[0, ::11], confidence[1, ::13], confidence[0, ::17] = 1.0, float("nan"), 0.0
    votes = Votes(labels.to(torch.uint16), encode_uncertainty(confidence))
    truth = torch.where(torch.arange(3000) % 5 == 0, -1, labels[0])
    truth[::3] = labels[1, ::3]
    counts: PoolCounts = no_counts(NUM_CLASSES)
    for rows in torch.arange(3000).split(177):
        part = Votes(labels[:, rows].to(torch.uint16), votes.uncertainty[:, rows])
        counts += count_pool(part, truth[rows], NUM_CLASSES, cuts=fixed_cuts(0.5))
    whole = count_pool(votes, truth, NUM_CLASSES, cuts=fixed_cuts(0.5))
    assert torch.equal(counts.values, whole.values)
    assert counts.describe() == _described_plainly(votes, truth)


def test_confidence_comes_back_from_its_code() -> None:
    confidence = torch.tensor([0.0, 0.25, 0.5, 0.8125, 1.0], dtype=torch.float64)
    assert torch.equal(decode_confidence(encode_uncertainty(confidence)), confidence)
