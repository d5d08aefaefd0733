"""Weights that the last update of an epoch spoils are noticed, although every loss was finite."""

import math
from pathlib import Path

import torch
from ranks import build_students, run_ranks, tiny_config

from cotrain_dist.config import Config


def _spoil_the_last_update(config: Config) -> dict[str, list[float]]:
    from cotrain_dist.training.context import labeled_samples
    from cotrain_dist.training.steps import train_epoch

    students, exp = build_students(config)
    losses = {}
    for student in students:
        samples = labeled_samples(exp.table, student.role, "own")
        before = train_epoch(student, samples, "pretrain", 1, exp).loss
        weight = next(student.model.parameters())
        weight.register_hook(lambda gradient: torch.full_like(gradient, math.nan))
        losses[student.role.value] = [
            before,
            train_epoch(student, samples, "pretrain", 2, exp).loss,
        ]
    exp.rt.close()
    return losses


def test_spoiled_weights_make_the_loss_nan(digits_folder: Path, tmp_path: Path) -> None:
    one_step = {"batch_size": 64}  # so that no later loss could show it
    config = tiny_config(digits_folder, tmp_path / "run", train=one_step)
    losses = run_ranks(_spoil_the_last_update, 1, tmp_path, config)[0]
    assert sorted(losses) == ["a", "b"]
    for before, after in losses.values():
        assert math.isfinite(before)
        assert math.isnan(after)
