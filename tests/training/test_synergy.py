"""`recipe: synergy`: the same bits in every world, with heads and with whole models; the kill."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config, CotrainConfig
from cotrain_dist.config.recipes import RECIPES
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.splits import Split
from cotrain_dist.training import cotrain

WORLDS = {
    "1": (1, None),
    "2": (2, None),
    "3": (3, None),
    "4": (4, None),
    "4, one for A": (4, [3]),
}


def synergy_config(
    root: Path, starts: dict[str, str], tmp_path: Path, train: str, **changes: Any
) -> Config:
    """The recipe's own settings, in a run of seconds."""
    settings: dict[str, Any] = {
        "recipe": "synergy",
        "data": {"feature_cache": str(tmp_path / "cache"), "labeled_per_class": 4},
        "model_a": {"name": None, "pretrained": starts["a"], "train": train},
        "model_b": {"name": None, "pretrained": starts["b"], "train": train},
        "pretrain": {"num_epochs": 1, "warmup_epochs": 0},
        "cotrain": {"num_epochs": 2, "warmup_epochs": 0},
        "selection": {"threshold": None},
    }
    for key, value in RECIPES["synergy"].items():
        section, _, name = key.rpartition(".")
        if section:
            settings[section] = {name: value} | settings.get(section, {})
        else:
            settings.setdefault(name, value)
    for name, values in changes.items():
        settings[name] = settings.get(name, {}) | values if isinstance(values, dict) else values
    return tiny_config(root, tmp_path / "run", **settings)


def _weights(run: Path) -> dict[str, str]:
    files = sorted(run.glob("models/*/model.safetensors"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _in_world(config: Config, ranks_a: list[int] | None) -> Config:
    return replace(config, placement=replace(config.placement, ranks_a=ranks_a))


@pytest.fixture(scope="module")
def heads_alone(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of one process that all others are compared with."""
    tmp_path = tmp_path_factory.mktemp("alone")
    run_ranks(train_run, 1, tmp_path, synergy_config(digits_folder, starts, tmp_path, "head"))
    return tmp_path / "run"


def test_heads_learn_all_of_the_pool_from_each_other(heads_alone: Path) -> None:
    last = history_of(heads_alone)[-1]
    num_pool = len(load_split_table(heads_alone).sample_ids(Split.U))
    assert last["num_selected_a"] == last["num_selected_b"] == num_pool
    assert last["fit_a"]["num_samples"] == 80 + num_pool
    assert last["test"]["ensemble"]["top1"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("world", ["2", "3", "4", "4, one for A"])
def test_heads_are_the_same_in_every_world(
    world: str, heads_alone: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    num_ranks, ranks_a = WORLDS[world]
    config = synergy_config(digits_folder, starts, tmp_path, "head")
    run_ranks(train_run, num_ranks, tmp_path, _in_world(config, ranks_a))
    assert _weights(tmp_path / "run") == _weights(heads_alone)


def _by_rounds(config: Config) -> Config:
    """Two rounds of two epochs, each from the end of Step 1; a third that is cut short."""
    cotrain = replace(config.cotrain, num_epochs=5, epochs_per_round=2, restart="step_one")
    return replace(config, cotrain=cotrain)


def test_a_round_begins_from_the_end_of_step_one(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = _by_rounds(synergy_config(digits_folder, starts, tmp_path, "all"))
    run_ranks(train_run, 2, tmp_path, config)
    lines = [line for line in history_of(tmp_path / "run") if line["phase"] == "cotrain"]
    assert [line["agreement_rate"] is not None for line in lines] == [
        *(False, True, False, True, False, True)
    ]
    # An epoch within a round learns what its round was taught.
    assert len({line["num_selected_a"] for line in lines[1:]}) == 1
    losses = [line["fit_a"]["loss"] for line in lines[1:]]
    assert losses[1] < losses[0]
    assert losses[2] > losses[1]


def _die_after(config: Config, epoch: int) -> None:
    """A body: a training that ends where a kill would, after the commit of an epoch of Step 2."""
    close = cotrain.close_epoch

    def dying(students: Any, state: Any, outcome: Any, images: Any, ctx: Any) -> None:
        close(students, state, outcome, images, ctx)
        if outcome.epoch == epoch:
            raise _Killed

    with mock.patch.object(cotrain, "close_epoch", dying), pytest.raises(_Killed):
        train_run(config)


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


@pytest.mark.slow
@pytest.mark.parametrize(("train", "num_ranks", "epoch"), [("head", 1, 1), ("all", 2, 1)])
def test_a_resumed_run_ends_with_the_same_bits(
    train: str,
    num_ranks: int,
    epoch: int,
    digits_folder: Path,
    starts: dict[str, str],
    tmp_path: Path,
) -> None:
    """Also where the commit lies within a round, whose exchange is then part of it."""
    whole = _by_rounds(synergy_config(digits_folder, starts, tmp_path, train))
    killed = replace(whole, output_dir=str(tmp_path / "killed"))
    run_ranks(train_run, num_ranks, tmp_path, whole)
    run_ranks(_die_after, num_ranks, tmp_path, killed, epoch)
    run_ranks(train_run, num_ranks, tmp_path, killed, True)
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "run")


@pytest.mark.slow
def test_the_final_epochs_teach_what_the_vote_says(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    """Not what the structure of U says, nor one of the rules."""
    config = synergy_config(digits_folder, starts, tmp_path, "head")
    steps = replace(config.cotrain, num_epochs=1, final_epochs=1)
    run_ranks(train_run, 2, tmp_path, replace(config, cotrain=steps))
    lines = [line for line in history_of(tmp_path / "run") if line["phase"] == "cotrain"]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    last = lines[-1]
    assert last["exchange"] == "peer"
    # What is taught is the vote's own label, so it is as often right as both together.
    assert last["selected_accuracy_a"] == last["selected_accuracy_b"]
    assert last["num_selected_a"] == lines[1]["num_selected_a"]


def test_the_schedule_begins_anew_with_each_round_and_ends_with_the_last() -> None:
    steps = CotrainConfig(
        num_epochs=5, epochs_per_round=2, restart="step_one", final_epochs=4, warmup_epochs=0
    )
    begun = [epoch for epoch in range(1, steps.last_epoch + 1) if steps.begins_round(epoch)]
    assert begun == [1, 3, 5, 6]
    # Four final epochs stretch the schedule of a round, which has two.
    found = [steps.schedule_epochs(progress) for progress in (0.0, 1.5, 2.0, 4.5, 5.0, 7.0, 8.5)]
    assert found == [0.0, 1.5, 0.0, 0.5, 0.0, 1.0, 1.75]


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_models_from_random_weights_are_asked_for_their_current_features(
    num_ranks: int, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    """They are computed anew in each round, and do not stay in the run directory."""
    config = synergy_config(
        digits_folder,
        starts,
        tmp_path,
        "all",
        model_a={"name": "test_resnet", "pretrained": False},
        model_b={"name": "test_efficientnet", "pretrained": False},
        cotrain={"num_epochs": 2, "epochs_per_round": 1},
    )
    assert config.structure_features == "current"
    run_ranks(train_run, num_ranks, tmp_path, config)
    lines = [line for line in history_of(tmp_path / "run") if line["phase"] == "cotrain"]
    assert all(line["num_selected_a"] == lines[1]["num_selected_a"] > 0 for line in lines[1:])
    assert not (tmp_path / "run" / "features").exists()
    assert not (tmp_path / "cache").exists()
