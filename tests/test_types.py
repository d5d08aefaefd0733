"""Records that compute: the target distributions of a training set."""

import torch

from cotrain_dist.types import Batch, TrainingSet, Unlabeled


def learned(soft: torch.Tensor | None) -> TrainingSet:
    """Two labeled rows, then two pseudo-labeled ones."""
    return TrainingSet(
        sample_ids=torch.tensor([7, 3, 9, 4]),
        targets=torch.tensor([1, 0, 2, 2]),
        is_pseudo=torch.tensor([False, False, True, True]),
        soft=soft,
    )


def test_hard_labels_are_distributions_of_one_class() -> None:
    probs = learned(None).probs_of(torch.tensor([2, 0]), 4)
    assert probs.dtype == torch.float32
    assert probs.tolist() == [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    assert learned(None).probs_of(torch.empty(0, dtype=torch.int64), 4).shape == (0, 4)


def test_soft_rows_are_the_last_ones_in_any_order() -> None:
    soft = torch.tensor([[0.25, 0.25, 0.5], [0.0, 1.0, 0.0]], dtype=torch.float16)
    probs = learned(soft).probs_of(torch.tensor([3, 1, 2, 0, 3]), 3)
    assert probs.dtype == torch.float32
    assert probs.tolist() == [
        [0.0, 1.0, 0.0],
        [1.0, 0.0, 0.0],
        [0.25, 0.25, 0.5],
        [0.0, 1.0, 0.0],
        [0.0, 1.0, 0.0],
    ]
    assert learned(soft[:0]).probs_of(torch.tensor([3]), 3).tolist() == [[0.0, 0.0, 1.0]]


def test_what_float16_has_rounded_away_is_given_back() -> None:
    thirds = torch.full((2, 3), 1 / 3, dtype=torch.float16)
    assert float(thirds[0].double().sum()) != 1.0
    probs = learned(thirds).probs_of(torch.tensor([2, 3]), 3)
    assert torch.allclose(probs, torch.full((2, 3), 1 / 3), rtol=1e-6)


def test_a_batch_counts_its_unlabeled_images() -> None:
    batch = Batch((), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool))
    assert batch.num_images == 3
    unlabeled = Unlabeled(torch.zeros(5, 3, 4, 4), ())
    assert Batch((), batch.targets, batch.is_pseudo, unlabeled=unlabeled).num_images == 8
