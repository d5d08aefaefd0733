"""Outside the exchange per model learns as if alone: nothing about the other one moves a bit."""

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import build_students, history_of, run_ranks, tiny_config, train_run
from safetensors.torch import load_file
from tiers import slow_but

from cotrain_dist.config import Config
from cotrain_dist.training import train as train_module

NUM_EPOCHS = 2
VIT = {"name": "test_vit", "drop_rate": 0.2}

# name -> number of ranks, changed settings, the role whose weights must stay as they are
OTHERS: dict[str, tuple[int, dict[str, Any], str]] = {
    "B is another architecture": (1, {"model_b": VIT}, "a"),
    "A is another architecture": (1, {"model_a": VIT}, "b"),
    "B is on another rank": (2, {}, "a"),
    "A is on another rank": (2, {}, "b"),
    "B is another architecture on three ranks": (
        4,
        {"model_b": VIT, "placement": {"ranks_a": [0]}},
        "a",
    ),
}


def _config(root: Path, output_dir: Path, **changes: Any) -> Config:
    """No exchange. Random crops and dropout draw from torch's global generator: a trap for both."""
    model = {"name": "test_resnet", "drop_rate": 0.2}
    settings: dict[str, Any] = {
        "data": {"augment": "crop_flip"},
        "model_a": model,
        "model_b": model,
        "pretrain": {"num_epochs": NUM_EPOCHS},
        "cotrain": {"num_epochs": NUM_EPOCHS},
        "exchange": "none",
        "labels": "own",
    }
    return tiny_config(root, output_dir, **(settings | changes))


def _train_keeping_epoch_0(config: Config) -> None:
    """A body: the whole training; models/a and b as exported before Step 2 stay in epoch-0."""
    cotrain = train_module.cotrain

    def copy_first(students: Any, state: Any, *rest: Any, **options: Any) -> None:
        ctx = rest[-1]
        ctx.runtime.wait_for_all()
        if ctx.runtime.is_lead:
            shutil.copytree(ctx.store.models, ctx.store.path / "epoch-0")
        ctx.runtime.wait_for_all()
        cotrain(students, state, *rest, **options)

    with mock.patch.object(train_module, "cotrain", copy_first):
        train_run(config)


@pytest.fixture(scope="module")
def alone(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others are compared with: one process, twice the same architecture."""
    tmp_path = tmp_path_factory.mktemp("alone")
    run_ranks(_train_keeping_epoch_0, 1, tmp_path, _config(digits_folder, tmp_path / "run"))
    return tmp_path / "run"


def _weights(run: Path, role: str) -> dict[str, bytes]:
    """After Step 1 and after Step 2."""
    return {
        when: (run / when / role / "model.safetensors").read_bytes()
        for when in ("epoch-0", "models")
    }


def _steps(run: Path, role: str) -> list[int]:
    """Optimizer steps of each pre-training epoch of a role."""
    return [line["num_steps"] for line in history_of(run) if line.get("role") == role]


@pytest.mark.parametrize(
    "other", slow_but(["B is another architecture", "B is on another rank"], OTHERS)
)
def test_a_model_does_not_depend_on_the_other_one(
    other: str, alone: Path, digits_folder: Path, tmp_path: Path
) -> None:
    num_ranks, changes, role = OTHERS[other]
    config = _config(digits_folder, tmp_path / "run", **changes)
    run_ranks(_train_keeping_epoch_0, num_ranks, tmp_path, config)
    here, there = _weights(tmp_path / "run", role), _weights(alone, role)
    assert here == there
    assert here["epoch-0"] != here["models"]
    assert _weights(alone, "a") != _weights(alone, "b")


def test_a_model_does_not_depend_on_the_others_number_of_steps(
    alone: Path, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """B starts from weights that fit its labels and stops after an epoch; A goes on."""
    config = _config(
        digits_folder,
        tmp_path / "run",
        model_b={"name": "test_efficientnet", "init_from": str(pretrained / "b")},
        pretrain={"num_epochs": NUM_EPOCHS, "stop_at_train_accuracy": 0.35},
    )
    run_ranks(_train_keeping_epoch_0, 1, tmp_path, config)
    assert len(_steps(tmp_path / "run", "b")) < len(_steps(tmp_path / "run", "a")) == NUM_EPOCHS
    assert _weights(tmp_path / "run", "a") == _weights(alone, "a")


def _first_weights(config: Config) -> dict[str, dict[str, Any]]:
    """A body: parameters by role and name, as nested lists."""
    students, _, ctx = build_students(config)
    first = {
        student.role.value: {
            name: parameter.tolist() for name, parameter in student.model.named_parameters()
        }
        for student in students
    }
    ctx.runtime.close()
    return first


def test_accumulation_trains_both_models_of_a_process_with_the_same_steps(
    digits_folder: Path, tmp_path: Path
) -> None:
    """Without batch statistics and dropout, micro-batches are a matter of memory alone.

    Plain SGD, since Adam would turn a rounding error of a small gradient into a full step.
    """
    vit = {"name": "test_vit"}

    def train(num_micro: int) -> Path:
        run = tmp_path / f"run-{num_micro}"
        config = _config(
            digits_folder,
            run,
            model_a=vit,
            model_b=vit,
            train={"batch_size": 12, "optimizer": "sgd", "accumulation_steps": num_micro},
            pretrain={"num_epochs": 2, "learning_rate": 0.05},
            cotrain={"num_epochs": 0},
        )
        run_ranks(_train_keeping_epoch_0, 1, tmp_path, config)
        return run

    whole, cut = train(1), train(2)
    config = _config(digits_folder, tmp_path / "none", model_a=vit, model_b=vit)
    (first,) = run_ranks(_first_weights, 1, tmp_path, config)
    for role in ("a", "b"):
        assert _steps(whole, role) == _steps(cut, role) == [4, 4]  # 40 images, 12 a step
        weights, expected = (
            load_file(run / "models" / role / "model.safetensors") for run in (cut, whole)
        )
        _assert_moved_alike(weights, expected, first[role])


def _assert_moved_alike(
    weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], first: dict[str, Any]
) -> None:
    """Both trainings moved every tensor away from the first weights, and to the same place."""
    assert set(first) <= set(weights)
    for name, values in first.items():
        moved = (weights[name] - torch.tensor(values)).abs().max()
        apart = (weights[name] - expected[name]).abs().max()
        assert moved > 1e-5, name
        assert apart < 1e-2 * moved + 1e-6, name
