"""The moving average: by hand, equal on all ranks of a role, and in place of the model outside."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import build_students, history_of, run_ranks, tiny_config, train_run
from safetensors.torch import load_file

from cotrain_dist.config import Config
from cotrain_dist.training import steps
from cotrain_dist.training.ema import Ema
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.types import Position

DECAY = 0.9


def _model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))


def _set(model: Any, value: float, count: int) -> None:
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[1].running_mean.fill_(10 * value)
        model[1].num_batches_tracked.fill_(count)


def test_weights_and_buffers_by_hand() -> None:
    """Step n keeps min(0.9, 1 - n^(-2/3)): nothing in the first, 0.9 from the 32nd on."""
    model = _model()
    _set(model, 5.0, 0)
    ema, expected = Ema(model, DECAY), 5.0
    for number in range(1, 41):
        _set(model, float(number), number)
        ema.update(model)
        kept = min(DECAY, 1.0 - number ** (-2 / 3))
        expected = kept * expected + (1.0 - kept) * number
        found: Any = ema.module
        assert found[0].weight.item() == pytest.approx(expected, rel=1e-5)
        assert found[1].running_mean.item() == pytest.approx(10 * expected, rel=1e-5)
        assert found[1].num_batches_tracked.item() == number
        assert not found.training
        assert not found[0].weight.requires_grad
    assert 30.0 < expected < 39.0
    assert 1.0 - 31 ** (-2 / 3) < DECAY < 1.0 - 32 ** (-2 / 3)


def test_it_is_restored_with_the_number_of_its_updates() -> None:
    model = _model()
    ema, other = Ema(model, DECAY), Ema(_model(), DECAY)
    for number in range(3):
        _set(model, float(number), number)
        ema.update(model)
    other.restore({name: own.clone() for name, own in ema.tensors().items()}, ema.num_updates)
    _set(model, 7.0, 3)
    for own in (ema, other):
        own.update(model)
    for name, values in ema.tensors().items():
        assert torch.equal(values, other.tensors()[name]), name


def test_it_begins_anew_from_the_weights_of_a_model() -> None:
    model = _model()
    ema = Ema(model, DECAY)
    for number in range(5):
        _set(model, float(number), number)
        ema.update(model)
    _set(model, 40.0, 7)
    ema.restart(model)
    assert ema.num_updates == 0
    for name, values in (dict(model.named_parameters()) | dict(model.named_buffers())).items():
        assert torch.equal(values, ema.tensors()[name]), name
    _set(model, 8.0, 8)
    ema.update(model)
    assert ema.tensors()["0.weight"].item() == 8.0, "nothing is kept in a first step"


def _train_an_epoch(config: Config) -> dict[str, Any]:
    """A body: an epoch of the student of this rank; its EMA, and what a step was followed by."""
    students, images, ctx = build_students(config)
    student = students[-1]
    learned = images.table.labeled(student.role, "own")
    train_epoch(student, learned, "pretrain", Position(), images.pixels, ctx)
    tensors = {name: values.cpu().clone() for name, values in student.ema.tensors().items()}
    weights = {name: values.cpu().clone() for name, values in student.model.named_parameters()}
    ctx.runtime.close()
    return {"ema": tensors, "weights": weights, "num": student.ema.num_updates}


@pytest.mark.slow
def test_all_ranks_of_a_role_hold_one_average(digits_folder: Path, tmp_path: Path) -> None:
    """Also of the statistics of normalization, which differ between ranks within an epoch."""
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_b={"name": "test_efficientnet"},
        placement={"ranks_a": [0]},
        train={"ema_decay": DECAY},
    )
    found = run_ranks(_train_an_epoch, 4, tmp_path, config)[1:]
    assert [own["num"] for own in found] == [3, 3, 3]
    for own in found[1:]:
        for name, values in own["ema"].items():
            assert torch.equal(values, found[0]["ema"][name]), name
    is_moved = [
        not torch.equal(values, found[0]["ema"][name])
        for name, values in found[0]["weights"].items()
    ]
    assert all(is_moved)


def _skip_steps(config: Config) -> int:
    """A body: an epoch whose second step the scaler does not take; the number of updates."""
    students, images, ctx = build_students(config)
    student = students[0]
    taken = iter([0, 1, 0])
    take_step = steps._take_step
    steps._take_step = lambda student: next(taken)
    try:
        learned = images.table.labeled(student.role, "own")
        fit = train_epoch(student, learned, "pretrain", Position(), images.pixels, ctx)
    finally:
        steps._take_step = take_step
    ctx.runtime.close()
    assert fit.num_skipped_steps == 1
    return int(student.ema.num_updates)


def test_a_step_that_was_not_taken_moves_nothing(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(digits_folder, tmp_path / "run", train={"ema_decay": DECAY})
    assert run_ranks(_skip_steps, 1, tmp_path, config) == [2]


@pytest.fixture(scope="module")
def runs(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """By decay, the run directory of a whole training with it; 0 is without."""
    found = {}
    for decay in (0.0, DECAY):
        tmp_path = tmp_path_factory.mktemp(f"ema_{decay}")
        config = tiny_config(
            digits_folder,
            tmp_path / "run",
            model_a={"name": "test_efficientnet"},
            train={"ema_decay": decay},
            exchange="none",
        )
        run_ranks(train_run, 1, tmp_path, config)
        found[decay] = tmp_path / "run"
    return found


def test_the_average_is_measured_and_exported_and_training_goes_on_as_without(
    runs: dict[float, Path],
) -> None:
    with_ema, without = runs[DECAY], runs[0.0]
    commit = with_ema / "checkpoints" / "a" / "cotrain-00002"
    exported = load_file(with_ema / "models" / "a" / "model.safetensors")
    average, weights = (load_file(commit / f"{name}.safetensors") for name in ("ema", "model"))
    assert exported.keys() == average.keys()
    for name, values in exported.items():
        assert torch.equal(values, average[name]), name
    # No bit of what is trained depends on it.
    plain = load_file(without / "checkpoints" / "a" / "cotrain-00002" / "model.safetensors")
    for name, values in plain.items():
        assert torch.equal(values, weights[name]), name
    assert any(not torch.equal(weights[name], average[name]) for name in weights)
    lines, others = history_of(with_ema), history_of(without)
    assert [line.get("fit_a") for line in lines] == [line.get("fit_a") for line in others]
    assert [line["test"] for line in lines] != [line["test"] for line in others]
    # 40 images in 3 steps, in each of four epochs.
    assert json.loads((commit / "state.json").read_text())["num_ema_updates"] == 12


def test_without_it_a_commit_is_as_before(runs: dict[float, Path]) -> None:
    commit = runs[0.0] / "checkpoints" / "a" / "cotrain-00002"
    assert not (commit / "ema.safetensors").exists()
    assert "num_ema_updates" not in json.loads((commit / "state.json").read_text())
