"""Losses and weights that are not finite: noticed at their step, or at the end of their epoch."""

import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import (
    RanksFailed,
    build_students,
    complaint,
    history_of,
    run_ranks,
    tiny_config,
    train_run,
)

from cotrain_dist.config import Config
from cotrain_dist.store.checkpoint import commits_in
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


At = tuple[str, str, int, int]
"""Role, phase, epoch and step, from 0."""


@contextmanager
def poisoned(
    at: Sequence[At], index: int | None = None, *, factor: float = math.nan
) -> Iterator[None]:
    """Within it, losses of some steps are not finite: on all ranks of the role, or on one."""
    from cotrain_dist.training import steps

    train_step, loss_of = steps.train_step, steps.loss_of
    now: list[Any] = []

    def step(*arguments: Any) -> Any:
        now[:] = (*arguments[4], arguments[0].group.index)
        return train_step(*arguments)

    def loss(*arguments: Any) -> Any:
        _, _, role, phase, epoch, number, own = now
        is_bad = (role, phase, epoch, number) in at and index in (None, own)
        return loss_of(*arguments) * (factor if is_bad else 1.0)

    steps.train_step, steps.loss_of = step, loss
    try:
        yield
    finally:
        steps.train_step, steps.loss_of = train_step, loss_of


def _poisoned_run(
    config: Config, at: Sequence[At], index: int | None = None, resume: bool = False
) -> tuple[str, str]:
    with poisoned(at, index):
        return complaint(config, resume)


def models_of(run: Path) -> dict[str, bytes]:
    files = [run / "models" / name / "model.safetensors" for name in "ab"]
    return {file.parent.name: file.read_bytes() for file in files}


IMAGES = r"on images (\d+, ){2,7}\d+( and \d+ more)? \(rows of splits.parquet\)"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_commit(
    digits_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    often = {"every_steps": 1}
    config = tiny_config(digits_folder, run, train={"batch_size": 8}, checkpoint=often)
    ((kind, text),) = run_ranks(_poisoned_run, 1, tmp_path, config, [("b", "cotrain", 2, 3)])
    assert kind == "TrainingError"
    place = r"cotrain epoch 2, step 4 of \d+: the loss of model B is nan, "
    assert re.match(place + IMAGES, text), text
    assert "train.on_nan skip_step" in text
    assert [folder.name for folder in commits_in(run / "checkpoints" / "world")][-1:] == [
        "cotrain-00001"
    ]
    newest = commits_in(run / "checkpoints" / "steps" / "b")[-1]
    assert newest.name == "cotrain-00002-0000003"
    run_ranks(train_run, 1, tmp_path, config, True)
    whole = tiny_config(digits_folder, tmp_path / "whole", train={"batch_size": 8})
    run_ranks(train_run, 1, tmp_path, whole)
    assert models_of(run) == models_of(tmp_path / "whole")
    assert history_of(run) == history_of(tmp_path / "whole")


def _explode(config: Config) -> tuple[str, str]:
    """A body: an update makes the weights infinite; every loss so far was finite."""
    from cotrain_dist.training import steps

    take_step, num = steps._take_step, []

    def take(student: Any) -> int:
        skipped = take_step(student)
        num.append(student.role.value)
        if num.count("a") == 2 and num[-1] == "a":
            with torch.no_grad():
                next(student.model.parameters()).fill_(math.inf)
        return skipped

    steps._take_step = take
    try:
        return complaint(config)
    finally:
        steps._take_step = take_step


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_committed_within_an_epoch(
    digits_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = tiny_config(digits_folder, run, train={"batch_size": 8}, checkpoint={"every_steps": 1})
    ((kind, text),) = run_ranks(_explode, 1, tmp_path, config)
    assert kind == "TrainingError"
    assert "pretrain epoch 1: weights of model A are no longer finite" in text
    steps = [folder.name for folder in commits_in(run / "checkpoints" / "steps" / "a")]
    assert steps == ["pretrain-00001-0000001"]


def _one_meets_it(config_file: str, at: Sequence[At], index: int) -> int:
    """A body: the loss is bad on one rank of B; those of A stand in their first step of Step 2."""
    from cotrain_dist.cli import main as cli
    from cotrain_dist.training import steps

    with poisoned(at, index):
        train_step = steps.train_step

        def wait(*arguments: Any) -> Any:
            if arguments[4][2:4] == ("a", "cotrain"):
                threading.Event().wait()
            return train_step(*arguments)

        steps.train_step = wait
        return cli.main(["train", "--config", config_file])


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_both_roles_stop_within_seconds(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    """Though the other one waits, and ranks of the same role have finite losses."""
    from cotrain_dist.config.text import config_to_yaml

    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        placement={"ranks_a": [0]},
        distributed={"lost_after_seconds": 10.0},
    )
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    at, index = [("b", "cotrain", 1, 1)], num_ranks - 2
    with pytest.raises(RanksFailed) as failure:
        run_ranks(_one_meets_it, num_ranks, tmp_path, str(tmp_path / "settings.yaml"), at, index)
    codes = failure.value.exit_codes
    assert 0 in codes  # A has waited, and was ended
    assert set(codes.values()) == {1}
    # The last that each has written is why it ends.
    times = [(tmp_path / f"rank-{rank}.out").stat().st_mtime for rank in range(num_ranks)]
    assert max(times) - min(times) < 30.0
    met = (tmp_path / f"rank-{num_ranks - 1}.out").read_text()
    assert re.search(rf"cotrain epoch 1, step 2 of \d+: the loss of model B is nan, {IMAGES}", met)
    heard = (tmp_path / "rank-0.out").read_text()
    assert f"the training of rank {num_ranks - 1} (role B, node " in heard
    assert "cotrain epoch 1, step 2 of " in heard
    assert "Traceback" not in met + heard
    assert not (tmp_path / "run" / "checkpoints" / "world" / "cotrain-00001").exists()
    assert (tmp_path / "run" / "checkpoints" / "world" / "cotrain-00000").exists()


# skip_step


def state_of(student: Any) -> list[torch.Tensor]:
    own = [*student.model.state_dict().values(), *student.ema.module.state_dict().values()]
    for values in student.optimizer.state_dict()["state"].values():
        own += [value for value in values.values() if isinstance(value, torch.Tensor)]
    return [value.detach().clone() for value in own]


def _skip_one(config: Config, factor: float, index: int | None) -> dict[str, Any]:
    """A body: an epoch whose steps 2 and 3 of three are bad; what became of the model."""
    from cotrain_dist.training import steps

    students, images, ctx = build_students(config)
    found = {}
    for student in students:
        role = student.role.value
        after: list[list[torch.Tensor]] = []
        with poisoned([(role, "pretrain", 1, 1), (role, "pretrain", 1, 2)], index, factor=factor):
            train_step = steps.train_step

            def step(
                *arguments: Any, of: Any = student, to: Any = after, do: Any = train_step
            ) -> Any:
                taken = do(*arguments)
                to.append(state_of(of))
                return taken

            steps.train_step = step
            learned = images.table.labeled(student.role, "own")
            fit = steps.train_epoch(student, learned, "pretrain", Position(), images.pixels, ctx)
        same = [
            all(map(torch.equal, after[0], later)) and len(after[0]) == len(later)
            for later in after[1:]
        ]
        found[role] = {"same": same, "fit": fit.to_json(), "last": after[-1]}
    ctx.runtime.close()
    return found


@pytest.mark.parametrize(("factor", "clip"), [(math.nan, None), (math.inf, 1.0)])
def test_a_step_that_is_left_out_changes_nothing(
    factor: float, clip: float | None, digits_folder: Path, tmp_path: Path
) -> None:
    """Weights, statistics of normalization, optimizer and moving average, bit for bit."""
    train = {"on_nan": "skip_step", "ema_decay": 0.9, "clip_grad_norm": clip}
    config = tiny_config(digits_folder, tmp_path / "run", train=train)
    (found,) = run_ranks(_skip_one, 1, tmp_path, config, factor, None)
    for own in found.values():
        assert own["same"] == [True, True]
        assert own["fit"]["num_skipped_steps"] == 2
        assert own["fit"]["num_steps"] == 3
        assert math.isfinite(own["fit"]["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("summed", [{"norm": "sync"}, {"exact_elastic": 3}], ids=str)
def test_all_ranks_of_a_model_leave_a_step_out_that_is_bad_on_one(
    summed: dict[str, Any], digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        placement={"ranks_a": [0]},
        train={"on_nan": "skip_step", "ema_decay": 0.9} | summed,
    )
    found = [own["b"] for own in run_ranks(_skip_one, 4, tmp_path, config, math.nan, 1)[1:]]
    for own in found:
        assert own["same"] == [True, True]
        assert own["fit"]["num_skipped_steps"] == 2
        assert own["fit"]["loss"] == found[0]["fit"]["loss"]
        assert all(map(torch.equal, own["last"], found[0]["last"]))


def _stopped_after(config: Config, at: Sequence[At], stop: At) -> tuple[str, str]:
    """A body: a run that ends by itself before a step."""
    from cotrain_dist.errors import TrainingError
    from cotrain_dist.training import steps

    with poisoned(at):
        train_step = steps.train_step

        def step(*arguments: Any) -> Any:
            if tuple(arguments[4][2:6]) == stop:
                raise TrainingError("stopped here")
            return train_step(*arguments)

        steps.train_step = step
        return complaint(config)


@pytest.mark.slow
def test_a_run_that_leaves_steps_out_and_goes_on_has_the_same_bits(
    digits_folder: Path, tmp_path: Path
) -> None:
    at = [("a", "pretrain", 1, 0), ("b", "cotrain", 1, 1), ("b", "cotrain", 1, 2)]
    train = {"batch_size": 8, "on_nan": "skip_step"}
    whole = tiny_config(digits_folder, tmp_path / "whole", train=train)
    assert run_ranks(_poisoned_run, 1, tmp_path, whole, at) == [("", "no error")]
    lines = history_of(tmp_path / "whole")
    own = [line["num_skipped_steps"] for line in lines if line["phase"] == "pretrain"]
    assert own == [1, 0, 0, 0]
    cotrained = [line for line in lines if "fit_b" in line]
    assert [line["fit_b"]["num_skipped_steps"] for line in cotrained] == [2, 0]
    assert [line["fit_a"]["num_skipped_steps"] for line in cotrained] == [0, 0]
    run = tmp_path / "run"
    config = tiny_config(digits_folder, run, train=train, checkpoint={"every_steps": 1})
    ((_, text),) = run_ranks(_stopped_after, 1, tmp_path, config, at, ("b", "cotrain", 1, 3))
    assert text == "stopped here"
    run_ranks(_poisoned_run, 1, tmp_path, config, at, None, True)
    assert models_of(run) == models_of(tmp_path / "whole")
    assert history_of(run) == history_of(tmp_path / "whole")


@pytest.mark.slow
def test_too_many_steps_in_a_row_end_the_training(digits_folder: Path, tmp_path: Path) -> None:
    """Counted on where a resume goes on within the row."""
    train = {"batch_size": 3, "on_nan": "skip_step"}
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        train=train,
        checkpoint={"every_steps": 1},
        pretrain={"num_epochs": 1},
    )
    at = [("a", "pretrain", 1, step) for step in range(2, 13)]
    ((_, text),) = run_ranks(_stopped_after, 1, tmp_path, config, at, ("a", "pretrain", 1, 9))
    assert text == "stopped here"
    ((kind, text),) = run_ranks(_poisoned_run, 1, tmp_path, config, at, None, True)
    assert kind == "TrainingError"
    assert text.startswith(
        "pretrain epoch 1, step 13 of 14: model A has left out 11 steps in a row"
    )
    other = tiny_config(digits_folder, tmp_path / "other", train=train)
    assert run_ranks(_poisoned_run, 1, tmp_path, other, at[:-1]) == [("", "no error")]
