"""Trainings on the device that COTRAIN_TEST_DEVICE names: `make test-gpu` says GPU, else a CPU."""

import gc
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch
from ranks import DEVICE, build_students, history_of, run_ranks, tiny_config, train_run, with_output

from cotrain_dist.config import Config

# A CPU refuses fp16, which tests/runtime/test_precision.py tests.
PRECISIONS = ["fp32", "bf16", "fp16"] if DEVICE == "cuda" else ["fp32", "bf16"]
TOO_MANY_BYTES = 2**50


@pytest.fixture
def config(digits_folder: Path, pretrained: Path, tmp_path: Path) -> Config:
    """Augmented images, dropout, batch normalization, non-empty R; equal bits are asked for."""
    model = {"name": "test_efficientnet", "drop_rate": 0.1}
    return tiny_config(
        digits_folder,
        tmp_path / "run",
        deterministic=True,
        data={"augment": "crop_flip"},
        model_a=model | {"init_from": f"{pretrained}/a"},
        model_b=model | {"init_from": f"{pretrained}/b"},
        pretrain={"num_epochs": 1},
    )


def outcome_of(run: Path) -> dict[str, Any]:
    """All that must not depend on how often, or in how many processes, a run was started."""
    weights = {
        name: hashlib.sha256((run / "models" / name / "model.safetensors").read_bytes()).hexdigest()
        for name in ("a", "b", "best")
    }
    return {"history": history_of(run), **weights}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_trains_in_each_precision(precision: str, config: Config, tmp_path: Path) -> None:
    run_ranks(train_run, 1, tmp_path, replace(config, precision=precision), timeout_seconds=240)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["precision"] == precision
    assert environment["device"] == (torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu")
    last = history_of(tmp_path / "run")[-1]
    assert last["test"]["a"]["top1"] > 0.2  # of ten classes
    for name in ("a", "b"):
        assert 0.0 < last[f"fit_{name}"]["loss"] < 2.0 * math.log(10.0)
        weights = safetensors.torch.load_file(
            tmp_path / "run" / "models" / name / "model.safetensors"
        )
        assert all(tensor.isfinite().all() for tensor in weights.values())
        assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.int64}


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


def _train_and_stop(config: Config, how: str) -> str:
    """A body: the first epoch of Step 2 is committed, then the process dies or memory is short."""
    from cotrain_dist.training import epochs

    commit = epochs.commit_cotrain

    def stopping(students: Any, state: Any, *rest: Any) -> None:
        commit(students, state, *rest)
        if state.next.epoch == 2:
            if how == "killed":
                raise _Killed
            torch.empty(TOO_MANY_BYTES, dtype=torch.uint8, device=students[0].device)

    try:
        with mock.patch.object(epochs, "commit_cotrain", stopping):
            train_run(config)
    except (_Killed, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "went on"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "out of memory"])
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    how: str, config: Config, tmp_path: Path
) -> None:
    """Also in the same process: what was short of memory holds none of it afterwards."""
    run_ranks(train_run, 1, tmp_path, config, timeout_seconds=240)
    stopped = with_output(config, tmp_path / "stopped")
    (said,) = run_ranks(_train_and_stop, 1, tmp_path, stopped, how, timeout_seconds=240)
    assert ("memory" in said) if how == "out of memory" else said.startswith("_Killed")
    run_ranks(train_run, 1, tmp_path, stopped, True, timeout_seconds=240)
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["attempt"] == 2
    assert outcome_of(tmp_path / "stopped") == outcome_of(tmp_path / "run")


@pytest.mark.slow
def test_two_roles_on_one_device_end_as_one_process_does(config: Config, tmp_path: Path) -> None:
    """On one GPU, gradients and all else go over gloo."""
    run_ranks(train_run, 1, tmp_path, config, timeout_seconds=240)
    run_ranks(train_run, 2, tmp_path, with_output(config, tmp_path / "two"), timeout_seconds=240)
    ranks = json.loads((tmp_path / "two" / "environment.json").read_text())["ranks"]
    assert [rank["roles"] for rank in ranks] == [["a"], ["b"]]
    assert outcome_of(tmp_path / "two") == outcome_of(tmp_path / "run")


def _votes(config: Config) -> tuple[Any, Any]:
    """A body: labels and codes of both models for U."""
    from cotrain_dist.training.pool import vote_on_pool

    students, images, ctx = build_students(config)
    ((_, votes),) = vote_on_pool(students, images, ctx).blocks()
    ctx.runtime.close()
    return votes.labels.int(), votes.uncertainty.int()


def test_votes_are_those_of_the_cpu(config: Config, tmp_path: Path) -> None:
    (here,) = run_ranks(_votes, 1, tmp_path, config)
    (on_cpu,) = run_ranks(_votes, 1, tmp_path, replace(config, device="cpu"))
    assert here[0].shape[1] > 50
    # Another order of sums may turn an even vote, and move a code by some of its 16 bits.
    assert (here[0] == on_cpu[0]).float().mean() > 0.98
    assert ((here[1] - on_cpu[1]).abs() <= 8).float().mean() > 0.98
    assert DEVICE != "cpu" or (torch.equal(here[0], on_cpu[0]) and torch.equal(here[1], on_cpu[1]))


def _gradient_in_a_group_of_one(folder: Path) -> float:
    """A body: how far a gradient moves when it is reduced over NCCL (on a CPU gloo) by our hook."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from cotrain_dist.training.student import _wrap

    device = torch.device("cuda", 0) if DEVICE == "cuda" else torch.device("cpu")
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4).to(device)
        images = torch.rand(16, 8, device=device)
        model(images).square().sum().backward()
        alone, model.weight.grad = model.weight.grad, None
        wrapped = _wrap(model, dist.group.WORLD, device)
        assert isinstance(wrapped, DistributedDataParallel)
        wrapped(images).square().sum().backward()
        assert alone is not None
        assert model.weight.grad is not None
        return float((model.weight.grad - alone).abs().max() / alone.abs().max())
    finally:
        dist.destroy_process_group()


def test_gradients_pass_the_backend_of_the_device(tmp_path: Path) -> None:
    (moved,) = run_ranks(_gradient_in_a_group_of_one, 1, tmp_path, tmp_path)
    assert moved < 1e-6


@pytest.mark.slow
def test_a_compiled_step_trains_as_the_plain_one(digits_folder: Path, tmp_path: Path) -> None:
    """With the real compiler. Close, not equal: it fuses operations."""
    weights = {}
    for name, compiles in (("plain", False), ("compiled", True)):
        own = tiny_config(
            digits_folder,
            tmp_path / name,
            compile=compiles,
            pretrain={"num_epochs": 1},
            cotrain={"num_epochs": 0},
        )
        run_ranks(train_run, 1, tmp_path, own, timeout_seconds=400)
        file = tmp_path / name / "models" / "a" / "model.safetensors"
        weights[name] = safetensors.torch.load_file(file)
    for key, values in weights["plain"].items():
        torch.testing.assert_close(weights["compiled"][key], values, rtol=1e-2, atol=1e-2)
    assert any(
        not torch.equal(weights["compiled"][key], values)
        for key, values in weights["plain"].items()
    )


def _bytes_held(config: Config) -> list[int]:
    """A body: bytes of tensors that live after each of three parts of a study."""
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.study.parts import run_part

    held = []
    with start_runtime(config) as rt:
        for part in ("one", "two", "three"):
            folder = Path(config.output_dir) / part
            run_part(with_output(config, folder), rt, quiet=True)
            gc.collect()
            if rt.device.type == "cuda":
                held.append(torch.cuda.memory_allocated())
            else:
                # By their very types: the compiler's own tensors have no size.
                kinds = (torch.Tensor, torch.nn.Parameter)
                held.append(sum(t.nbytes for t in gc.get_objects() if type(t) in kinds))
    return held


@pytest.mark.slow
def test_memory_is_flat_over_the_parts_of_a_study(config: Config, tmp_path: Path) -> None:
    (held,) = run_ranks(_bytes_held, 1, tmp_path, config, timeout_seconds=240)
    assert held[2] <= held[0] * 1.01 + 1024, held


def _images_per_second(config: Config) -> dict[str, float]:
    """A body: of A's labeled images, read alone, trained on alone, and both as a training does."""
    import time

    from cotrain_dist.training.steps import train_epoch
    from cotrain_dist.types import Position

    students, images, ctx = build_students(config)
    student = students[0]
    learned = images.table.labeled(student.role, "own")
    batches = learned.sample_ids.split(config.train.batch_size)
    targets = learned.targets.to(student.device).split(config.train.batch_size)

    def read() -> list[torch.Tensor]:
        return list(student.inputs(batches, images.pixels))

    pixels = read()

    def step() -> None:
        student.trained.train()
        for batch, target in zip(pixels, targets, strict=True):
            torch.nn.functional.cross_entropy(student.trained(batch), target).backward()
            student.optimizer.step()
            student.optimizer.zero_grad()

    def both() -> None:
        train_epoch(student, learned, "pretrain", Position(), images.pixels, ctx)

    speeds = {}
    for name, work in (("read", read), ("step", step), ("both", both)):
        work()  # warms up
        started = time.perf_counter()
        for _ in range(3):
            work()
        if student.device.type == "cuda":
            torch.cuda.synchronize()
        speeds[name] = 3 * len(learned) / (time.perf_counter() - started)
    ctx.runtime.close()
    return speeds


@pytest.mark.slow
def test_an_epoch_is_as_fast_as_its_parts(config: Config, tmp_path: Path) -> None:
    """No time is lost between the loader and the device: at worst one after the other."""
    plain = replace(config, data=replace(config.data, augment="off"))
    (speeds,) = run_ranks(_images_per_second, 1, tmp_path, plain)
    one_after_the_other = 1.0 / (1.0 / speeds["read"] + 1.0 / speeds["step"])
    print({name: round(speed) for name, speed in speeds.items()})
    assert speeds["both"] > one_after_the_other / 2.0, speeds
