"""Fits of the last layer to a training set: classes, weights, distributions."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from ranks import tiny_config
from torch import nn

from cotrain_dist.config import RoleConfig, resolve_role
from cotrain_dist.method.heads import scaling_of
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training import heads
from cotrain_dist.training.heads import fit_rows, fit_student
from cotrain_dist.training.student import Frozen
from cotrain_dist.types import TrainingSet

NUM_LABELED, NUM_PSEUDO, NUM_CLASSES = 12, 20, 3
NUM_ROWS = NUM_LABELED + NUM_PSEUDO


@pytest.fixture
def config(tmp_path: Path) -> RoleConfig:
    plain = tiny_config(tmp_path, tmp_path / "run")
    model = replace(plain.model_a, train="head", pretrained="folder", name=None, head_penalty=0.01)
    return replace(resolve_role(plain, "a"), model=model)


def rows_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(NUM_ROWS) % NUM_CLASSES
    centers = 2.0 * torch.randn(NUM_CLASSES, 6, generator=generator)
    return centers[targets] + torch.randn(NUM_ROWS, 6, generator=generator), targets


def learned(soft: torch.Tensor | None) -> TrainingSet:
    """The labeled rows, then the pseudo-labeled ones, which weigh half."""
    _, targets = rows_and_targets()
    is_pseudo = torch.arange(NUM_ROWS) >= NUM_LABELED
    weights = torch.where(is_pseudo, 0.5, 1.0)
    return TrainingSet(torch.arange(NUM_ROWS), targets, is_pseudo, weights, soft)


def one_hot_of_r() -> torch.Tensor:
    return torch.eye(NUM_CLASSES, dtype=torch.float16)[learned(None).targets[NUM_LABELED:]]


def test_distributions_of_one_class_are_as_good_as_labels(config: RoleConfig) -> None:
    rows = rows_and_targets()[0].double().numpy()
    hard, soft = (
        fit_rows(rows, learned(own), NUM_CLASSES, scaling_of(rows), config)
        for own in (None, one_hot_of_r())
    )
    assert 0.001 < hard.loss == pytest.approx(soft.loss, abs=1e-4)
    np.testing.assert_allclose(soft.weight, hard.weight, atol=0.01 * np.abs(hard.weight).max())


def test_distributions_take_the_place_of_the_labels_of_r_alone(config: RoleConfig) -> None:
    """R says: the class after the label, for sure. The labeled rows keep theirs."""
    rows = rows_and_targets()[0].double().numpy()
    soft = fit_rows(rows, learned(one_hot_of_r().roll(1, dims=1)), 3, scaling_of(rows), config)
    own = learned(None)
    moved = torch.where(own.is_pseudo, (own.targets + 1) % NUM_CLASSES, own.targets)
    hard = fit_rows(rows, replace(own, targets=moved), NUM_CLASSES, scaling_of(rows), config)
    np.testing.assert_allclose(soft.weight, hard.weight, atol=0.01 * np.abs(hard.weight).max())


def frozen_with(rows: torch.Tensor, folder: Path) -> Frozen:
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(NUM_ROWS)]
    store = FeatureStore(folder, {"dtype": "float32"}, digests, rows.shape[1])
    store.write(torch.arange(NUM_ROWS), rows)
    store.look()
    head = nn.Linear(rows.shape[1], NUM_CLASSES)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return Frozen(head, store, scaling_of(rows.double().numpy()))


def test_a_student_learns_distributions_and_goes_on_from_its_head(
    config: RoleConfig, tmp_path: Path
) -> None:
    rows, _ = rows_and_targets()
    frozen = frozen_with(rows, tmp_path / "features")
    third = torch.full((NUM_PSEUDO, NUM_CLASSES), 1 / 3, dtype=torch.float16)
    first = fit_student(frozen, config, learned(third))
    assert first.num_steps > 3
    assert first.num_samples == NUM_ROWS
    probs = frozen.head(rows).softmax(dim=1)
    of_l, of_r = probs[:NUM_LABELED].max(dim=1).values, probs[NUM_LABELED:].max(dim=1).values
    assert of_r.mean() < of_l.mean() < 0.9, "R says that it does not know"
    again = fit_student(frozen, config, learned(third))
    assert again.num_steps <= 2
    assert again.loss == pytest.approx(first.loss, abs=1e-5)


def test_a_penalty_is_chosen_once_for_the_same_labels(config: RoleConfig) -> None:
    """With or without R beside them; other labels choose anew."""
    chosen: list[int] = []

    def choose(rows: np.ndarray, targets: np.ndarray, *rest: Any) -> float:
        chosen.append(len(targets))
        return 0.01

    rows = rows_and_targets()[0].double().numpy()
    scaling, whole = scaling_of(rows), learned(None)
    alone = TrainingSet(
        *(values[:NUM_LABELED] for values in (whole.sample_ids, whole.targets, whole.is_pseudo))
    )
    other = replace(alone, targets=alone.targets.flip(0))
    config = replace(config, model=replace(config.model, head_penalty=None))
    with (
        mock.patch.object(heads, "choose_penalty", choose),
        mock.patch.object(heads, "KEPT_PENALTIES", {}),
    ):
        for own in (whole, alone, alone, other):
            penalty, _ = heads.penalty_and_seed(rows[: len(own)], own, NUM_CLASSES, scaling, config)
            assert penalty == 0.01
    assert chosen == [NUM_LABELED, NUM_LABELED]
