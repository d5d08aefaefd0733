"""Weights that the last update of an epoch spoils are noticed, although every loss was finite."""

import math
from pathlib import Path

import torch
from ranks import build_students, run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.types import Position


def _spoil_the_last_update(config: Config) -> dict[str, list[float]]:
    from cotrain_dist.training.steps import train_epoch

    students, images, ctx = build_students(config)
    losses = {}
    for student in students:
        learned = images.table.labeled(student.role, "own")
        pixels = images.pixels
        before = train_epoch(student, learned, "pretrain", Position(1), pixels, ctx).loss
        weight = next(student.model.parameters())
        weight.register_hook(lambda gradient: torch.full_like(gradient, math.nan))
        losses[student.role.value] = [
            before,
            train_epoch(student, learned, "pretrain", Position(2), pixels, ctx).loss,
        ]
    ctx.runtime.close()
    return losses


def test_spoiled_weights_make_the_loss_nan(digits_folder: Path, tmp_path: Path) -> None:
    one_step = {"batch_size": 64}  # so that no later loss could show it
    config = tiny_config(digits_folder, tmp_path / "run", train=one_step)
    losses = run_ranks(_spoil_the_last_update, 1, tmp_path, config)[0]
    assert sorted(losses) == ["a", "b"]
    for before, after in losses.values():
        assert math.isfinite(before)
        assert math.isnan(after)
