"""A run that was killed and resumed ends bit-equal to one that nobody disturbed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks import (
    RanksFailed,
    complaint,
    history_of,
    run_ranks,
    tiny_config,
    train_run,
    with_output,
)

from cotrain_dist.config import Config
from cotrain_dist.errors import UserError
from cotrain_dist.store import checkpoint
from cotrain_dist.training import commits, epochs, pretrain

LAST_EPOCH = 2
"""Of each step."""


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


@dataclass(frozen=True)
class _Start:
    """What all runs here start from."""

    root: Path
    models: Path

    def config(self, output_dir: Path, num_ranks: int) -> Config:
        """Augmented images, dropout, batch normalization; models that disagree and are sure.

        In a world of four, role B has three ranks: there DDP lays out its buckets in its own way.
        """
        model = {"name": "test_efficientnet", "drop_rate": 0.1}
        # Step 2 begins with another optimizer, or goes on with the one of Step 1.
        optimizer = "keep" if num_ranks == 2 else "fresh"
        return tiny_config(
            self.root,
            output_dir,
            data={"augment": "crop_flip"},
            pretrain={"num_epochs": LAST_EPOCH, "learning_rate": 1e-3},
            cotrain={"num_epochs": LAST_EPOCH, "optimizer": optimizer},
            placement={"ranks_a": [0] if num_ranks > 1 else None},
            model_a=model | {"init_from": f"{self.models}/a"},
            model_b=model | {"init_from": f"{self.models}/b"},
        )


@pytest.fixture
def start(digits_folder: Path, pretrained: Path) -> _Start:
    return _Start(digits_folder, pretrained)


def _train_until_killed(config: Config, resume: bool, where: str) -> str:
    """A body: train up to a moment and end there; returns the moment that it ended at."""
    try:
        with _dying(where):
            train_run(config, resume)
    except _Killed as killed:
        return str(killed)
    return "not killed"


@contextmanager
def _dying(where: str) -> Iterator[None]:
    with ExitStack() as stack:
        if where == "in pre-training":
            commit_pretrain = commits.commit_pretrain

            def after_pretrain(student: Any, state: Any, epoch: int, *rest: Any) -> None:
                commit_pretrain(student, state, epoch, *rest)
                if epoch == {"a": 1, "b": 2}[student.role.value]:  # the roles are not in step
                    raise _Killed(f"{where}, {student.role.value}")

            stack.enter_context(mock.patch.object(pretrain, "commit_pretrain", after_pretrain))
        if where == "after an epoch":
            commit_cotrain = commits.commit_cotrain

            def after_cotrain(students: Any, state: Any, *rest: Any) -> None:
                commit_cotrain(students, state, *rest)
                if state.next.epoch == 2:
                    raise _Killed(where)

            stack.enter_context(mock.patch.object(epochs, "commit_cotrain", after_cotrain))
        if where == "between the roles' commits and the world's":
            commit = checkpoint.commit

            def before_world(target: Path, *args: Any) -> None:
                if (target.parent.name, target.name) == ("world", "cotrain-00002"):
                    raise _Killed(where)
                commit(target, *args)

            stack.enter_context(mock.patch.object(commits, "commit", before_world))
        yield


def _train_until_killed_in_a_commit(config: Config) -> None:
    """A body: the process is gone while the files of the second epoch of Step 2 are written."""
    file_digest = checkpoint.file_digest

    def dying_digest(path: Path) -> str:
        if path.parent.name == "cotrain-00002.tmp":
            os._exit(9)
        return file_digest(path)

    with mock.patch.object(checkpoint, "file_digest", dying_digest):
        train_run(config)


def _outcome(run: Path) -> dict[str, Any]:
    """Everything a run leaves that must not depend on how often it was started."""
    last = f"cotrain-{LAST_EPOCH:05d}"
    files = [run / "models" / name / "model.safetensors" for name in ("a", "b", "best")]
    for folder in ("a", "b", "world"):
        files += sorted((run / "checkpoints" / folder / last).glob("*.safetensors"))
    outcome: dict[str, Any] = {str(file.relative_to(run)): file.read_bytes() for file in files}
    outcome["history"] = history_of(run)
    return outcome


def _assert_same(run: Path, undisturbed: Path) -> None:
    resumed, expected = _outcome(run), _outcome(undisturbed)
    assert resumed["history"] == expected["history"]
    assert sorted(resumed) == sorted(expected)
    assert [name for name in expected if resumed[name] != expected[name]] == []


_undisturbed: dict[int, Path] = {}


@pytest.fixture(scope="module")
def undisturbed(
    digits_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """num_ranks -> the run directory of a training in one piece, made once."""

    def make(num_ranks: int) -> Path:
        if num_ranks not in _undisturbed:
            tmp_path = tmp_path_factory.mktemp(f"undisturbed_{num_ranks}")
            run = tmp_path / "run"
            config = _Start(digits_folder, pretrained).config(run, num_ranks)
            run_ranks(train_run, num_ranks, tmp_path, config)
            _undisturbed[num_ranks] = run
        return _undisturbed[num_ranks]

    yield make
    _undisturbed.clear()


def _commits(run: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints" / folder).iterdir())


@pytest.mark.parametrize(
    "num_ranks",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)],
)
def test_killed_three_times_and_resumed_ends_bit_equal(
    num_ranks: int, start: _Start, undisturbed: Any, tmp_path: Path
) -> None:
    expected = undisturbed(num_ranks)
    run = tmp_path / "run"
    config = start.config(run, num_ranks)

    where = "in pre-training"
    ended = run_ranks(_train_until_killed, num_ranks, tmp_path, config, False, where)
    assert ended[0] == f"{where}, a"
    assert ended[1:] == [f"{where}, b"] * (num_ranks - 1)
    assert _commits(run, "a") == ["pretrain-00001"]
    assert not (run / "checkpoints" / "world").exists()

    where = "after an epoch"
    ended = run_ranks(_train_until_killed, num_ranks, tmp_path, config, True, where)
    assert ended == [where] * num_ranks
    assert _commits(run, "world") == ["cotrain-00000", "cotrain-00001"]

    where = "between the roles' commits and the world's"
    ended = run_ranks(_train_until_killed, num_ranks, tmp_path, config, True, where)
    assert ended == [where] * num_ranks
    assert _commits(run, "world")[-1] == "cotrain-00001"
    assert _commits(run, "a")[-1] == "cotrain-00002"

    run_ranks(train_run, num_ranks, tmp_path, config, True)
    assert json.loads((run / "run.json").read_text())["attempt"] == 4
    _assert_same(run, expected)
    last = _outcome(run)["history"][-1]
    assert last["epoch"] == LAST_EPOCH
    assert last["num_selected_a"] > 0
    assert last["num_selected_b"] > 0


@pytest.mark.slow
def test_a_kill_inside_a_commit_costs_that_epoch_alone(
    start: _Start, undisturbed: Any, tmp_path: Path
) -> None:
    expected = undisturbed(1)
    run = tmp_path / "run"
    config = start.config(run, 1)
    with pytest.raises(RanksFailed, match="exit code 9") as failure:
        run_ranks(_train_until_killed_in_a_commit, 1, tmp_path, config)
    assert failure.value.exit_codes == {0: 9}
    assert "cotrain-00002.tmp" in _commits(run, "a")
    run_ranks(train_run, 1, tmp_path, config, True)
    _assert_same(run, expected)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_damaged_commit_is_named_and_skipped_for_the_one_before(
    num_ranks: int, start: _Start, undisturbed: Any, tmp_path: Path
) -> None:
    expected = undisturbed(num_ranks)
    run = tmp_path / "run"
    shutil.copytree(expected, run)
    config = start.config(run, num_ranks)
    damaged = run / "checkpoints" / "b" / f"cotrain-{LAST_EPOCH:05d}" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    run_ranks(train_run, num_ranks, tmp_path, config, True)
    log = (run / "logs" / "rank-000.log").read_text()
    what = f"skipped for the commit before it: checkpoint: {damaged}: is missing or damaged: its "
    assert what in log
    assert json.loads((run / "run.json").read_text())["attempt"] == 2
    _assert_same(run, expected)


def test_a_damaged_commit_of_pre_training_is_named(start: _Start, tmp_path: Path) -> None:
    config = start.config(tmp_path / "run", 1)
    run_ranks(_train_until_killed, 1, tmp_path, config, False, "in pre-training")
    damaged = tmp_path / "run" / "checkpoints" / "a" / "pretrain-00001" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    ((kind, text),) = run_ranks(complaint, 1, tmp_path, config, True)
    assert kind == UserError.__name__
    assert f"{damaged}: is missing or damaged" in text


def test_a_resume_refuses_other_settings_groups_and_folders(
    start: _Start, undisturbed: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed(2), run)
    config = start.config(run, 2)
    before = _outcome(run)
    cases = [
        (replace(config, seed=1), "was made with other settings"),
        (replace(config, exchange="peer"), "was made with other settings"),
        (with_output(config, tmp_path), "is no run directory"),
        (with_output(config, tmp_path / "nothing"), "is no run directory"),
    ]
    for other, message in cases:
        for _, text in run_ranks(complaint, 2, tmp_path, other, True):
            assert message in text
    identity = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(identity | {"run_id": "0"}))
    assert "was made with another run" in run_ranks(complaint, 2, tmp_path, config, True)[0][1]
    assert _outcome(run) == before


@pytest.mark.slow
def test_a_finished_run_resumes_to_itself_on_another_number_of_ranks(
    start: _Start, undisturbed: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed(4), run)
    expected = _outcome(run)
    config = start.config(run, 1)
    assert run_ranks(complaint, 1, tmp_path, config, True) == [("", "no error")]
    assert _outcome(run) == expected
    log = (run / "logs" / "rank-000.log").read_text()
    assert "resumed with 1 ranks after 4: right, but" in log


def _resume_in_bf16(config: Config) -> None:
    """A body."""
    with mock.patch.dict(os.environ, {"ACCELERATE_MIXED_PRECISION": "bf16"}):
        train_run(config, True)


def test_a_resume_in_another_precision_is_told(
    start: _Start, undisturbed: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed(1), run)
    run_ranks(_resume_in_bf16, 1, tmp_path, start.config(run, 1))
    log = (run / "logs" / "rank-000.log").read_text()
    assert "resumed in bf16 after fp32: the result is that of neither" in log
