"""Rules, thresholds, weights and shares of a step in whole trainings, on one rank and on two."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import build_students, history_of, run_ranks, tiny_config, train_run
from tiers import slow_but

from cotrain_dist.config import Config, TrainConfig, resolve_role
from cotrain_dist.method.exchange import training_set
from cotrain_dist.method.heads import scaling_of
from cotrain_dist.method.shares import cut_epoch
from cotrain_dist.method.steps import EpochPlan, plan_epoch
from cotrain_dist.store.records import Fit
from cotrain_dist.training import cotrain
from cotrain_dist.training.heads import fit_rows
from cotrain_dist.training.steps import load_batches, plan_of, train_epoch
from cotrain_dist.types import PseudoLabeled, Role, TrainingSet

NUM_LABELED = 40
"""Four of each of ten digits, for each model."""

CHANGES: dict[str, dict[str, Any]] = {
    "flex": {
        "selection": {
            "rule": "agreement_peer",
            "threshold_policy": "flex",
            "threshold": 0.5,
            "weights": "agreement",
        },
        "train": {
            "batch_size": 16,
            "pseudo_weight": 0.5,
            "pseudo_ramp_epochs": 1,
            "least_labeled_fraction": 0.75,
            "class_balanced": True,
        },
        "exchange": "peer",
    },
    "free": {
        "selection": {
            "rule": "confident_peer",
            "threshold": None,
            "threshold_policy": "free",
            "top_k_per_class": 3,
            "weights": "confidence",
        },
        "exchange": "peer",
    },
}


def _histories(
    name: str, pretrained: Path, root: Path, tmp_path: Path
) -> dict[int, list[dict[str, Any]]]:
    found = {}
    for num_ranks in (1, 2):
        run = tmp_path / f"{name}-{num_ranks}"
        config = tiny_config(
            root,
            run,
            model_a={"name": "test_efficientnet", "init_from": str(pretrained / "a")},
            model_b={"name": "test_efficientnet", "init_from": str(pretrained / "b")},
            pretrain={"num_epochs": 0},
            **CHANGES[name],
        )
        run_ranks(train_run, num_ranks, tmp_path, config)
        found[num_ranks] = history_of(run)
    return found


@pytest.mark.parametrize("name", slow_but(["free"], CHANGES))
def test_a_training_is_the_same_on_one_rank_and_on_two(
    name: str, pretrained: Path, digits_folder: Path, tmp_path: Path
) -> None:
    histories = _histories(name, pretrained, digits_folder, tmp_path)
    assert histories[1] == histories[2]
    epochs = [line for line in histories[1] if line["phase"] == "cotrain"][1:]
    assert len(epochs) == 2
    for line in epochs:
        for role, peer in (("a", "b"), ("b", "a")):
            num_taught = line[f"num_selected_{peer}"]
            assert num_taught > 5
            fit = line[f"fit_{role}"]
            least = 0.75 if name == "flex" else 0.0
            cut = cut_epoch(NUM_LABELED, num_taught, 16, least)
            assert (fit["num_steps"], fit["num_samples"]) == (cut.num_steps, cut.num_rows)
            assert (cut.num_rows > NUM_LABELED + num_taught) == (name == "flex")
            if name == "free":
                assert max(line[f"selected_class_histogram_{peer}"]) <= 3


def _weights_of_r(config: Config) -> dict[int, list[float]]:
    """A body: the weights that A's images of R have in each epoch of a training."""
    found: dict[int, list[float]] = {}

    def spy(student: Any, learned: TrainingSet, phase: str, start: Any, *rest: Any) -> Fit:
        if student.role is Role.A and phase == "cotrain":
            assert learned.weights is not None
            assert set(learned.weights[~learned.is_pseudo].tolist()) == {1.0}
            found[start.epoch] = learned.weights[learned.is_pseudo].unique().tolist()
        return train_epoch(student, learned, phase, start, *rest)

    with mock.patch.object(cotrain, "train_epoch", spy):
        train_run(config)
    return found


def test_the_weight_of_r_reaches_the_training_set(
    pretrained: Path, digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_a={"name": "test_efficientnet", "init_from": str(pretrained / "a")},
        model_b={"name": "test_efficientnet", "init_from": str(pretrained / "b")},
        pretrain={"num_epochs": 0},
        train={"batch_size": 16, "pseudo_weight": 0.5, "pseudo_ramp_epochs": 1},
        exchange="peer",
    )
    (found,) = run_ranks(_weights_of_r, 1, tmp_path, config)
    assert found == {1: [0.25], 2: [0.5]}


def _plan(num_taught: int, num_shards: int = 1, **train: Any) -> tuple[TrainingSet, EpochPlan]:
    """What a student of so many ranks learns, eight images of it labeled, and in which steps."""
    labeled = TrainingSet(torch.arange(8), torch.arange(8) % 2, torch.zeros(8, dtype=torch.bool))
    ids = torch.arange(100, 100 + num_taught)
    learned = training_set(labeled, PseudoLabeled(ids, ids % 2))
    student: Any = SimpleNamespace(
        config=SimpleNamespace(train=TrainConfig(batch_size=8, **train)),
        num_shards=num_shards,
        teachers=(),
    )
    return learned, plan_of(student, learned, (0, "a", "cotrain", 1))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_no_rank_decides_what_a_step_holds(num_shards: int) -> None:
    learned, plan = _plan(30, num_shards, least_labeled_fraction=0.5, accumulation_steps=2)
    _, alone = _plan(30, 1, least_labeled_fraction=0.5)
    assert plan.repeats
    assert all(map(torch.equal, plan.steps, alone.steps))
    for step, rows in enumerate(plan.steps):
        parts = [part for shard in range(num_shards) for part in plan.micro_batches(step, shard)]
        assert torch.equal(torch.cat(parts), rows)
        assert 2 * int((~learned.is_pseudo[rows]).sum()) >= len(rows)


def test_without_r_or_the_settings_a_plan_is_that_of_each_row_once() -> None:
    for num_taught, share in ((30, 0.0), (0, 0.5)):
        learned, plan = _plan(num_taught, least_labeled_fraction=share)
        usual = plan_epoch(
            len(learned), batch_size=8, num_shards=1, num_micro=1, key=(0, "a", "cotrain", 1)
        )
        assert not plan.repeats
        assert all(map(torch.equal, plan.steps, usual.steps))


def _views_of_one_image(config: Config) -> list[torch.Tensor]:
    """A body: what a step sees of an image that comes in each of two steps."""
    students, images, ctx = build_students(config)
    learned = images.table.labeled(students[0].role, "own")
    rows = torch.zeros(1, dtype=torch.int64)
    balanced = plan_of(students[0], learned, (0,))
    views = []
    for repeats in (balanced.repeats, False):
        twice = replace(balanced, steps=(rows, rows), repeats=repeats)
        batches = load_batches(students[0], learned, twice, [0, 1], ("augment", 1), images.pixels)
        views += [batch.views[0] for batch in batches]
    ctx.runtime.close()
    return views


def test_an_image_that_comes_again_looks_otherwise(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        data={"augment": "crop_flip"},
        train={"class_balanced": True},
    )
    ((first, second, usual, again),) = run_ranks(_views_of_one_image, 1, tmp_path, config)
    assert not torch.equal(first, second)
    assert torch.equal(usual, again), "an image that comes once has one view in an epoch"


def test_heads_learn_with_weights_in_place_of_repeated_images() -> None:
    """Three images of R to one of L; a share of three quarters counts the latter nine times."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 5, generator=generator).double().numpy()
    ids, targets = torch.arange(8), torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    learned = TrainingSet(ids, targets, ids >= 2)
    config = tiny_config(
        Path("root"),
        Path("run"),
        model_a={"pretrained": True, "train": "head", "head_penalty": 0.01},
        train={"least_labeled_fraction": 0.75},
    )
    own, scaling = resolve_role(config, "a"), scaling_of(rows)
    found = fit_rows(rows, learned, 2, scaling, own)
    again = torch.cat([torch.arange(2).repeat(9), torch.arange(2, 8)])
    repeated = TrainingSet(again, targets[again], again >= 2)
    plain = resolve_role(tiny_config(Path("root"), Path("run"), model_a=asdict(own.model)), "a")
    expected = fit_rows(rows[again.numpy()], repeated, 2, scaling, plain)
    assert found.weight == pytest.approx(expected.weight, abs=1e-4)
    unweighted = fit_rows(rows, learned, 2, scaling, plain)
    assert found.weight != pytest.approx(unweighted.weight, abs=1e-2)
