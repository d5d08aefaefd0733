"""The settings that a run goes on with: which may change, and which run `auto` takes."""

import os
from pathlib import Path

import pytest

from cotrain_dist.config import Config, SelectionConfig
from cotrain_dist.config.of_run import changes_between, config_of_newest, config_of_run
from cotrain_dist.config.schema import all_keys
from cotrain_dist.config.text import MAY_CHANGE, MAY_CHANGE_IN_STEP_ONE, is_free_on_resume
from cotrain_dist.errors import UserError


def _run(path: Path, settings: str = "seed: 3\n", about: str = "{}", age: float = 0.0) -> Path:
    """A run directory as far as its settings go; age: seconds since it was started."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(settings)
    (path / "run.json").write_text(about)
    os.utime(path / "run.json", (1e9 - age, 1e9 - age))
    return path


def test_the_keys_that_may_change_are_keys() -> None:
    named = MAY_CHANGE + MAY_CHANGE_IN_STEP_ONE
    assert set(named) <= set(all_keys())
    assert len(set(named)) == len(named)
    assert not any(map(is_free_on_resume, named))


def test_changes_are_told_with_both_values() -> None:
    now = Config(seed=1, selection=SelectionConfig(threshold=0.5), output_dir="elsewhere")
    changes = changes_between(Config(), now)
    assert list(map(str, changes)) == ["selection.threshold None -> 0.5", "seed 0 -> 1"]


TWO = "--selection.threshold 0.5 --cotrain.num_epochs 9"


@pytest.mark.parametrize(
    ("arguments", "allow", "message"),
    [
        (
            TWO,
            False,
            "cotrain.num_epochs: 9: the run has other settings (cotrain.num_epochs 20 -> 9, "
            "selection.threshold None -> 0.5); give --allow-config-change to go on with these",
        ),
        (TWO, None, "selection.threshold None -> 0.5); start a new run"),
        (f"{TWO} --seed 4", True, "seed: 4: cannot change in an existing run, which has 3; start"),
        ("--model_a.name resnet18", True, "model_a.name: resnet18: cannot change in an existing"),
        ("--train.weight_decay 0.1", True, "train.weight_decay: 0.1: cannot change in an exist"),
        (
            "--pretrain.num_epochs 9",
            True,
            "pretrain.num_epochs: 9: cannot change in an existing run, which has 50: Step 1 is",
        ),
    ],
)
def test_what_may_not_change_is_one_error(
    arguments: str, allow: bool | None, message: str, tmp_path: Path
) -> None:
    run = _run(tmp_path / "run")
    (run / "checkpoints" / "world" / "cotrain-00000").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        config_of_run(run, arguments.split(), "prog", allow_change=allow)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_allowed_change_is_taken(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    arguments = f"{TWO} --pretrain.num_epochs 9 --device cpu".split()
    config = config_of_run(run, arguments, "prog", allow_change=True)
    assert (config.seed, config.selection.threshold, config.cotrain.num_epochs) == (3, 0.5, 9)
    assert config.pretrain.num_epochs == 9, "Step 2 has not begun"
    free = config_of_run(run, ["--device", "cpu", "--checkpoint.keep", "5"], "prog")
    assert (free.device, free.checkpoint.keep) == ("cpu", 5), "these decide no result"


def test_auto_takes_the_run_in_its_place(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    arguments = ["--seed", "3", "--device", "cpu", "--output_dir", str(run)]
    found = config_of_newest(arguments, "prog")
    assert (found.is_run, found.is_finished) == (True, False)
    assert (found.config.output_dir, found.config.device) == (str(run), "cpu")
    (run / "run.json").write_text('{"finished": true}')
    assert config_of_newest(arguments, "prog").is_finished
    more = [*arguments, "--cotrain.num_epochs", "30"]
    with pytest.raises(UserError, match=r"cotrain\.num_epochs 20 -> 30"):
        config_of_newest(more, "prog")
    assert not config_of_newest(more, "prog", allow_change=True).is_finished
    (run / "run.json").write_text('{"finis')
    assert config_of_newest(arguments, "prog").is_run, "going on with it names what is damaged"


def test_auto_takes_the_unfinished_run_that_was_started_last(tmp_path: Path) -> None:
    _run(tmp_path / "oldest", age=30.0)
    _run(tmp_path / "newer", age=20.0)
    _run(tmp_path / "newest", about='{"finished": true}', age=10.0)
    (tmp_path / "notes").mkdir()
    found = config_of_newest(["--seed", "3", "--output_dir", str(tmp_path)], "prog")
    assert found.is_run
    assert found.config.output_dir == str(tmp_path / "newer")
    with pytest.raises(UserError, match=r"seed: 0: cannot change in an existing run, which has 3"):
        config_of_newest(["--output_dir", str(tmp_path)], "prog")


@pytest.mark.parametrize("kept", ["nothing", "finished runs"])
def test_auto_begins_a_run_where_none_is_unfinished(kept: str, tmp_path: Path) -> None:
    if kept == "finished runs":
        _run(tmp_path / "runs" / "one", about='{"finished": true}')
    place = str(tmp_path / "runs")
    found = config_of_newest(["--seed", "4", "--output_dir", place], "prog")
    assert (found.is_run, found.is_finished, found.config.output_dir) == (False, False, place)
