"""What both models call U, counted by hand."""

import torch

from cotrain_dist.method.metrics import describe_pool
from cotrain_dist.method.scores import INVALID_UNCERTAINTY, decode_confidence, encode_uncertainty
from cotrain_dist.types import Votes


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
    pool = describe_pool(votes, truth, 3)
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
    assert describe_pool(votes, torch.tensor([-1]), 2) is None


def test_images_that_were_not_scored_are_left_out() -> None:
    votes = votes_of([[0, 0], [0, 0]], [[0.9, 0.9], [0.9, 0.9]])
    votes.uncertainty[1, 0] = INVALID_UNCERTAINTY
    pool = describe_pool(votes, torch.tensor([0, 0]), 1)
    assert pool is not None
    assert sum(pool["agree_a"]["num_images"]) == 1
    assert pool["agree_a"]["num_images_by_class"] == [1]


def test_confidence_comes_back_from_its_code() -> None:
    confidence = torch.tensor([0.0, 0.25, 0.5, 0.8125, 1.0], dtype=torch.float64)
    assert torch.equal(decode_confidence(encode_uncertainty(confidence)), confidence)
