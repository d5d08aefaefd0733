"""A kill between two steps of an epoch: what is left of it ends with the same bits."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import CheckpointConfig, Config
from cotrain_dist.store.checkpoint import commits_in
from cotrain_dist.training import steps as steps_module
from cotrain_dist.training import within as within_module
from cotrain_dist.training.within import Within

pytestmark = pytest.mark.slow
"""`test_damage.py` goes on from commits within an epoch, too, in one process."""


def whole_config(root: Path, models: Path, output_dir: Path, num_ranks: int) -> Config:
    """All that a step could inherit from the one before; in a world of four B has three ranks."""
    model = {"name": "test_efficientnet", "drop_rate": 0.1}
    return tiny_config(
        root,
        output_dir,
        data={"augment": "crop_flip"},
        model_a=model | {"init_from": f"{models}/a"},
        model_b=model | {"init_from": f"{models}/b"},
        train={
            "batch_size": 8 * max(1, num_ranks - 1),
            "mixup": 0.2,
            "cutmix": 1.0,
            "ema_decay": 0.9,
            "accumulation_steps": 2 if num_ranks == 1 else 1,
        },
        pretrain={"num_epochs": 2, "learning_rate": 1e-3},
        consistency={"teacher": "both", "policy": "free", "ratio": 1, "fairness": 0.0},
        placement={"ranks_a": [0] if num_ranks > 1 else None},
        exchange="none",
        checkpoint={"every_steps": None, "every_minutes": None},
    )


@pytest.fixture(scope="module")
def undisturbed(
    digits_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """The run of a world that commits at epoch ends alone."""
    runs: dict[int, Path] = {}

    def find(num_ranks: int) -> Path:
        if num_ranks not in runs:
            tmp_path = tmp_path_factory.mktemp(f"undisturbed-{num_ranks}")
            config = whole_config(digits_folder, pretrained, tmp_path / "run", num_ranks)
            run_ranks(train_run, num_ranks, tmp_path, config)
            runs[num_ranks] = tmp_path / "run"
        return runs[num_ranks]

    return find


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


def _train_until_killed(config: Config, resume: bool, phase: str, num_steps: int) -> int:
    """A body: train until some steps of an epoch 2 are behind a model; steps that were taken."""
    look, taken = Within.look, []

    def looked(self: Any, progress: Any) -> None:
        look(self, progress)
        if (self._phase, self._epoch) == (phase, 2) and progress.num_steps == num_steps:
            self.wait()  # what a kill leaves of a commit that is not whole, another test looks at
            raise _Killed

    def counted(*args: Any) -> Any:
        taken.append(None)
        return steps_module_train_step(*args)

    steps_module_train_step = steps_module.train_step
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Within, "look", looked))
        stack.enter_context(mock.patch.object(steps_module, "train_step", counted))
        try:
            train_run(config, resume)
        except _Killed:
            return len(taken)
    return -len(taken)


def _is_same(run: Path, expected: Path) -> None:
    assert history_of(run) == history_of(expected)
    for file in sorted(expected.glob("models/*/model.safetensors")):
        ours = run / file.relative_to(expected)
        assert _digest(ours) == _digest(file), file


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_killed_between_steps_of_both_phases_it_ends_with_the_same_bits(
    num_ranks: int,
    undisturbed: Callable[[int], Path],
    digits_folder: Path,
    pretrained: Path,
    tmp_path: Path,
) -> None:
    expected, run = undisturbed(num_ranks), tmp_path / "run"
    config = whole_config(digits_folder, pretrained, run, num_ranks)
    config = replace(config, checkpoint=CheckpointConfig(every_steps=2, every_minutes=None))
    first = 1 if num_ranks == 4 else 2
    begun = run_ranks(_train_until_killed, num_ranks, tmp_path, config, False, "pretrain", first)
    again = run_ranks(_train_until_killed, num_ranks, tmp_path, config, True, "cotrain", 5)
    ended = run_ranks(_train_until_killed, num_ranks, tmp_path, config, True, "never", 0)
    assert min(begun) > 0
    assert min(again) > 0
    assert max(ended) < 0
    _is_same(run, expected)
    # From the fourth step of epoch 2 on, where the kill came after the fifth; in one process both
    # models wait for each other, and B had not begun.
    num_steps = _steps_per_epoch(expected)
    left = num_steps - 4 if num_ranks > 1 else 2 * num_steps - 4
    assert [-taken for taken in ended] == [left] * num_ranks
    assert not list(run.glob("checkpoints/steps/*/*"))


def _steps_per_epoch(run: Path) -> int:
    line = history_of(run)[-1]
    assert line["fit_a"]["num_steps"] == line["fit_b"]["num_steps"]
    return int(line["fit_a"]["num_steps"])


def test_a_damaged_commit_is_skipped_for_the_one_before(
    undisturbed: Callable[[int], Path], digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = whole_config(digits_folder, pretrained, run, 2)
    config = replace(config, checkpoint=CheckpointConfig(every_steps=2, every_minutes=None))
    run_ranks(_train_until_killed, 2, tmp_path, config, False, "cotrain", 6)
    for role, name in (("a", "model.safetensors"), ("b", "rank-0.safetensors")):
        newest = commits_in(run / "checkpoints" / "steps" / role)[-1]
        assert newest.name == "cotrain-00002-0000006"
        content = bytearray((newest / name).read_bytes())
        content[len(content) // 2] ^= 1
        (newest / name).write_bytes(content)
    ended = run_ranks(_train_until_killed, 2, tmp_path, config, True, "never", 0)
    assert [-taken for taken in ended] == [_steps_per_epoch(run) - 4] * 2
    assert "skipped: checkpoint" in (run / "logs" / "rank-000.log").read_text()
    _is_same(run, undisturbed(2))


def test_what_another_number_of_ranks_has_committed_within_an_epoch_is_left_out(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Each rank's statistics and counts would have no place: the epoch begins again."""
    run = tmp_path / "run"
    config = whole_config(digits_folder, pretrained, run, 4)
    config = replace(config, checkpoint=CheckpointConfig(every_steps=2, every_minutes=None))
    run_ranks(_train_until_killed, 4, tmp_path, config, False, "cotrain", 3)
    fewer = replace(config, placement=replace(config.placement, ranks_a=None))
    ended = run_ranks(_train_until_killed, 2, tmp_path, fewer, True, "never", 0)
    # A has one rank in both worlds and goes on; B had three.
    num_steps = _steps_per_epoch(run)
    assert [-taken for taken in ended] == [num_steps - 2, num_steps]


def _fail_to_write(config: Config) -> str:
    """A body: a training whose disk is full within an epoch."""

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with mock.patch.object(within_module, "commit", full), pytest.raises(OSError, match="space"):
        train_run(config)
    return "ended"


def test_a_full_disk_within_an_epoch_ends_the_run_and_leaves_the_commit_before(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = whole_config(digits_folder, pretrained, tmp_path / "run", 1)
    config = replace(config, checkpoint=CheckpointConfig(every_steps=3, every_minutes=None))
    assert run_ranks(_fail_to_write, 1, tmp_path, config) == ["ended"]
    calm = replace(config, checkpoint=CheckpointConfig(every_minutes=None))
    run_ranks(train_run, 1, tmp_path, calm, True)
    assert history_of(tmp_path / "run")[-1]["epoch"] == 2


def _count_by_the_clock(config: Config) -> list[int]:
    """A body: after which steps of each model's epochs it commits."""
    committed = []

    def noted(self: Any, progress: Any) -> None:
        committed.append(progress.num_steps)

    with mock.patch.object(Within, "_commit", noted):
        train_run(config)
    return committed


def test_by_the_clock_all_ranks_of_a_model_commit_after_the_same_step(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = whole_config(digits_folder, pretrained, tmp_path / "run", 4)
    limits = CheckpointConfig(every_minutes=1e-6)
    config = replace(config, checkpoint=limits, train=replace(config.train, batch_size=12))
    _, *of_b = run_ranks(_count_by_the_clock, 4, tmp_path, config)
    assert of_b[0] == of_b[1] == of_b[2]
    assert set(of_b[0]) == {1, 2, 4, 8}
