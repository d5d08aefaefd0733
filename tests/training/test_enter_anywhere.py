"""Training can be entered at any step of an epoch: the rest of it has the same bits."""

import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks import build_students, run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.training import steps
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.types import Position


class _LeftOff(BaseException):
    """Ends an epoch between two of its steps."""


def _train(config: Config, leave_after: int | None) -> dict[str, Any]:
    """A body: epoch 2 in one go, or left after some steps and entered again; what it came to."""
    students, images, ctx = build_students(config)
    seen = {}
    for student in students:
        learned = images.table.labeled(student.role, "own")
        pixels = images.pixels
        start = Position(2)
        if leave_after is not None:
            start = Position(2, leave_after)
            with (
                mock.patch.object(steps, "train_step", _leaving(steps.train_step, leave_after)),
                pytest.raises(_LeftOff),
            ):
                train_epoch(student, learned, "cotrain", Position(2), pixels, ctx)
        fit = train_epoch(student, learned, "cotrain", start, pixels, ctx)
        state = student.model.state_dict()
        content = b"".join(values.numpy().tobytes() for values in state.values())
        seen[student.role.value] = {
            "weights": hashlib.sha256(content).hexdigest(),
            "rate": fit.learning_rate,
            "steps": fit.num_steps,
        }
    ctx.runtime.close()
    return seen


def _leaving(train_step: Any, num_steps: int) -> Any:
    calls = []

    def counted(*args: Any) -> Any:
        if len(calls) == num_steps:
            raise _LeftOff
        calls.append(None)
        return train_step(*args)

    return counted


@pytest.mark.parametrize("num_ranks", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_an_epoch_is_entered_in_its_middle(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    """Dropout, crops and batch normalization: all that a step could inherit from those before."""
    model = {"name": "test_efficientnet", "drop_rate": 0.2}
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_a=model,
        model_b=model,
        data={"augment": "crop_flip"},
        train={"batch_size": 12, "accumulation_steps": 2},
    )
    whole = run_ranks(_train, num_ranks, tmp_path, config, None)
    for leave_after in (0, 1, 3):
        halves = run_ranks(_train, num_ranks, tmp_path, config, leave_after)
        for one, other in zip(whole, halves, strict=True):
            assert one.keys() == other.keys()
            for role, figures in one.items():
                assert figures["steps"] == 4
                assert other[role] == figures | {"steps": 4 - leave_after}
