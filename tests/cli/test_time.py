"""`train --time`: settings that fit, a run that ends in time, a model at any moment before."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ranks import run_ranks, start_commands, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config, resolve_role
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import UserError
from cotrain_dist.method.budget import Choice
from cotrain_dist.method.placement import Placement
from cotrain_dist.method.splits import Split
from cotrain_dist.models import load_saved
from cotrain_dist.planning import budget
from cotrain_dist.planning.budget import Speed, at_size, costs_at, settled, sizes_of
from cotrain_dist.runtime.deadline import Deadline, deadline_in, ends_in_time
from cotrain_dist.runtime.stop import STOP
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.setup import split_table_of
from cotrain_dist.training.train import train
from cotrain_dist.types import Role


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--time 5", "--time: 5: must be hours, minutes or seconds with their unit"),
        ("--time 0m", "--time: 0m: must be hours, minutes or seconds with their unit"),
        ("--time 1m30", "--time: 1m30: must be hours, minutes or seconds"),
        ("--time 5m --time 6m", "--time: 5m 6m: takes one time; give --time 30m once"),
        ("--time 5m --resume runs/one", "--time: 5m: begins a run that fits"),
        ("--time 5m --max-restarts 2", "leave out --max-restarts"),
    ],
)
def test_a_time_that_cannot_be_kept_is_one_line(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_a_time_too_short_for_any_training_leaves_nothing(
    digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(digits_folder, tmp_path / "run")
    with pytest.raises(UserError, match=r"--time: 1s: the shortest training, at \d+ pixels, takes"):
        _train(config, _deadline(0.0), given="1s")
    assert list(tmp_path.iterdir()) == []


def _deadline(seconds: float) -> Deadline:
    return Deadline(begun_at=time.monotonic(), total_seconds=seconds)


def _train(config: Config, deadline: Deadline, given: str = "1h") -> None:
    train(config, resume=False, quiet=True, fit=budget.fit_to(deadline, given))


def _over_at_once(deadline: Deadline) -> Callable[[RunContext, Images], RunContext]:
    """The settings stay, and the time is over before it begins."""

    def fit(ctx: RunContext, images: Images) -> RunContext:
        ctx.runtime.deadline = replace(deadline, step_one_ends_at=-math.inf)
        return ctx

    return fit


def train_late(config: Config) -> None:
    """A body: all time is over when the first epoch begins."""
    train(config, resume=False, quiet=True, fit=_over_at_once(_deadline(0.0)))


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_run_whose_time_is_over_ends_with_the_epoch(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    """One epoch of each step, then all that an end leaves; on all ranks alike."""
    config = tiny_config(digits_folder, tmp_path / "run", pretrain={"num_epochs": 3})
    run_ranks(train_late, num_ranks, tmp_path, config)
    store = RunDirectory(tmp_path / "run")
    assert [(record.role, record.epoch) for record in store.history.pretrain()] == [
        ("a", 1),
        ("b", 1),
    ]
    assert [record.epoch for record in store.history.cotrain()] == [0, 1]
    assert store.read_json("run.json")["finished"]
    assert sorted(path.name for path in store.models.iterdir()) == ["a", "b", "best"]
    # A resume has no limit: it trains what is left, and the run is not finished meanwhile.
    run_ranks(train_run, num_ranks, tmp_path, config, True)
    assert [record.epoch for record in store.history.cotrain()] == [0, 1, 2]
    assert store.read_json("run.json")["finished"]


def test_there_is_a_model_before_step_one_is_over(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotrain_dist.training import pretrain

    seen: list[list[str]] = []
    epoch = pretrain.pretrain_epoch

    def note(student: Any, *rest: Any) -> Any:
        folder = tmp_path / "run" / "models"
        seen.append(sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [])
        return epoch(student, *rest)

    monkeypatch.setattr(pretrain, "pretrain_epoch", note)
    config = tiny_config(digits_folder, tmp_path / "run", pretrain={"num_epochs": 2})
    deadline = _deadline(1e6)

    def fit(ctx: RunContext, images: Images) -> RunContext:
        ctx.runtime.deadline = deadline
        return ctx

    train(config, resume=False, quiet=True, fit=fit)
    # A's two epochs, then B's.
    assert seen == [[], ["a", "best"], ["a", "best"], ["a", "b", "best"]]


def test_time_that_is_there_goes_into_epochs(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an hour, three times the epochs of the settings at most; each trained and recorded."""
    monkeypatch.setattr("cotrain_dist.method.budget.MOST_OF_USUAL", 2.0)
    config = tiny_config(
        *(digits_folder, tmp_path / "run"),
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 1},
        # Neither micro-shards nor commits belong to the steps that are timed.
        train={"exact_elastic": 4},
        checkpoint={"every_steps": 1},
    )
    _train(config, _deadline(3600.0))
    store = RunDirectory(tmp_path / "run")
    kept = yaml.safe_load((store.path / "config.yaml").read_text())
    assert (kept["pretrain"]["num_epochs"], kept["cotrain"]["num_epochs"]) == (2, 2)
    assert len(store.history.pretrain()) == 4
    assert [record.epoch for record in store.history.cotrain()] == [0, 1, 2]


def test_final_epochs_are_not_planned(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        cotrain={"final_epochs": 1},
        pool={"keep": "probabilities"},
    )
    with pytest.raises(UserError, match=r"cotrain.final_epochs: 1: are not planned by --time"):
        _train(config, _deadline(3600.0))
    assert list(tmp_path.iterdir()) == []


def test_of_two_models_in_one_process_each_has_half_of_step_one() -> None:
    deadline = replace(_deadline(100.0), step_one_begins_at=10.0, step_one_ends_at=50.0)
    assert deadline.step_one_ends(is_first_of_two=True) == 30.0
    assert deadline.step_one_ends(is_first_of_two=False) == 50.0


def test_what_still_runs_at_the_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(STOP, "ask", asked.append)
    with ends_in_time(_deadline(-100.0), "--time 1m"):
        time.sleep(0.2)
    assert asked == ["--time 1m"]
    with ends_in_time(_deadline(1000.0), "--time 20m"):
        pass
    time.sleep(0.1)
    assert asked == ["--time 1m"]


def test_the_time_counts_from_the_start_of_the_command() -> None:
    """Before this, the process has imported torch, which takes a second at least."""
    deadline = deadline_in(100.0)
    begun = time.monotonic() - deadline.begun_at
    assert 0.5 < begun < 7200.0
    assert deadline.last_epoch_ends_at < deadline.stops_at < deadline.begun_at + 100.0
    assert deadline.left == pytest.approx(0.9 * 100.0 - 3.0 - begun, abs=1.0)


def test_settings_at_a_size(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(digits_folder, tmp_path / "run", data={"image_size": 128})
    assert sizes_of(config) == [128, 96, 64, 32]
    small = at_size(64, config)
    assert [resolve_role(small, name).image_size for name in "ab"] == [64, 64]
    assert (small.data.image_size, small.model_a.image_size) == (64, None)
    # Of two sizes the smaller one stays as long as it is not the larger one.
    mixed = tiny_config(
        digits_folder,
        tmp_path / "run",
        data={"image_size": 128},
        model_b={"name": "test_vit", "image_size": 80},
    )
    at_96, at_64 = at_size(96, mixed), at_size(64, mixed)
    assert [resolve_role(at_96, name).image_size for name in "ab"] == [96, 80]
    assert [resolve_role(at_64, name).image_size for name in "ab"] == [64, 64]


def test_a_warm_up_too_long_for_the_time_is_left(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        pretrain={"num_epochs": 9, "warmup_epochs": 3},
        cotrain={"num_epochs": 5, "warmup_epochs": 1},
    )
    choice = Choice(
        image_size=8, step_one_epochs=2, step_two_epochs=2, seconds=1.0, step_one_share=0.5
    )
    chosen = settled(choice, config)
    assert (chosen.pretrain.num_epochs, chosen.pretrain.warmup_epochs) == (2, None)
    assert (chosen.cotrain.num_epochs, chosen.cotrain.warmup_epochs) == (2, 1)


def test_costs_are_those_of_the_images_that_are_seen(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        data={"image_size": 8, "validation_fraction": 0.1},
        pretrain={"num_epochs": 4, "eval_every_epochs": 2},
        exchange="peer",
        pool={"keep": "probabilities"},
        selection={"rule": "mean_hard"},
    )
    table = split_table_of(config)
    num = {split: len(table.sample_ids(split)) for split in Split}
    speeds = {
        Role.A: Speed(train=[(8, 0.02)], label=[(8, 0.01)]),
        Role.B: Speed(train=[(8, 0.04)], label=[(8, 0.01)]),
    }
    apart = costs_at(8, speeds, config, Placement((0,), (1,)), table)
    together = costs_at(8, speeds, config, Placement((0,), (0,)), table)
    halved = costs_at(8, speeds, config, Placement((0, 1), (2, 3)), table)
    measured = num[Split.T] + num[Split.V]
    one = 0.04 * num[Split.L_B] + 0.01 * num[Split.T] / 2
    assert apart.step_one == pytest.approx(one)
    two_of = {
        role: rate * (num[own] + num[Split.U]) + 0.01 * (num[Split.U] + measured)
        for role, rate, own in ((Role.A, 0.02, Split.L_A), (Role.B, 0.04, Split.L_B))
    }
    assert apart.step_two == pytest.approx(two_of[Role.B])
    assert together.step_two == pytest.approx(sum(two_of.values()))
    assert halved.step_two == pytest.approx(two_of[Role.B] / 2)
    assert apart.before == pytest.approx(0.01 * measured)
    head = replace(
        config,
        model_a=replace(config.model_a, train="head", pretrained=True),
        model_b=replace(config.model_b, train="head", pretrained=True),
    )
    of_heads = costs_at(8, speeds, head, Placement((0,), (1,)), table)
    assert of_heads.is_of_heads
    num_images = sum(num.values()) - num[Split.OUT]
    assert of_heads.before == pytest.approx(0.01 * num_images)


@pytest.mark.slow
def test_two_ranks_end_within_their_time(digits_folder: Path, tmp_path: Path) -> None:
    """From the start of the processes to their end; the settings are those that were told."""
    config = tiny_config(digits_folder, tmp_path / "run")
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    words = ["train", "--config", str(tmp_path / "settings.yaml"), "--time", "2m"]
    started = time.monotonic()
    processes = start_commands(2, words, tmp_path)
    codes = [process.wait(timeout=180) for process in processes]
    assert time.monotonic() - started < 120.0
    told = (tmp_path / "0.out").read_text()
    assert codes == [0, 0], told
    assert "time 2m: images of 32 pixels, 6 epoch(s) of Step 1 and 6 of Step 2" in told, told
    store = RunDirectory(tmp_path / "run")
    assert store.read_json("run.json")["finished"]
    assert len(store.history.pretrain()) == 12
    assert load_saved(store.models / "best") is not None
