"""One rank for A, three for B: the groups take different steps, and B's three are one model."""

import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from ranks import GradientRecorder, build_students, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.method.steps import EpochPlan
from cotrain_dist.training import train as train_module
from cotrain_dist.training.steps import load_batches, train_step
from cotrain_dist.training.student import average_buffers
from cotrain_dist.types import Role

STEP_SIZE = 10  # images: 4, 3 and 3 of them on three ranks


def _train_and_look(config: Config) -> dict[str, str]:
    """A body: the whole training; a digest of weights and statistics of each student at its end."""
    seen: dict[str, str] = {}
    finish = train_module.finish

    def look(students: Any, *rest: Any) -> Any:
        for student in students:
            state = student.model.state_dict()
            content = b"".join(values.cpu().numpy().tobytes() for values in state.values())
            seen[student.role.value] = hashlib.sha256(content).hexdigest()
        return finish(students, *rest)

    with mock.patch.object(train_module, "finish", look):
        train_run(config)
    return seen


@pytest.mark.slow
def test_groups_with_different_steps_neither_wait_nor_meet(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    model = {"name": "test_efficientnet"}
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_a=model | {"init_from": str(pretrained / "a")},
        model_b=model | {"init_from": str(pretrained / "b")},
        train={"batch_size": 8},
        # R_A and R_B then differ by far more than a step, whatever the last digits of a CPU.
        selection={"threshold": 0.5},
        placement={"ranks_a": [0]},
    )
    a, *b = run_ranks(_train_and_look, 4, tmp_path, config, timeout_seconds=90)
    assert list(a) == ["a"]
    assert len(b) == 3
    assert all(list(seen) == ["b"] for seen in b)
    assert len({seen["b"] for seen in b}) == 1
    assert a["a"] != b[0]["b"]
    lines = history_of(tmp_path / "run")
    steps = [(line["fit_a"]["num_steps"], line["fit_b"]["num_steps"]) for line in lines[-2:]]
    assert any(of_a != of_b for of_a, of_b in steps)


def _config(root: Path, num_ranks: int, num_micro: int) -> Config:
    return tiny_config(
        root,
        Path("never-made"),
        model_b={"name": "test_vit"},
        train={"accumulation_steps": num_micro},
        placement={"ranks_a": [0] if num_ranks > 1 else None},
    )


def _gradient_of_a_step(config: Config) -> dict[str, torch.Tensor] | None:
    """A body: B's gradient after one step, as its optimizer finds it on this rank."""
    students, images, ctx = build_students(config)
    gradient = None
    for student in students:
        if student.role is Role.B:
            learned = images.table.labeled(Role.B, "own")
            num_micro = config.train.accumulation_steps
            plan = EpochPlan((torch.arange(STEP_SIZE),), student.group.size, num_micro)
            batches = load_batches(student, learned, plan, [0], ("test",), images.pixels)
            student.optimizer = GradientRecorder(student.model)
            student.trained.train()
            train_step(student, batches, num_micro, STEP_SIZE, ("test",))
            gradient = student.optimizer.gradient
    ctx.runtime.close()
    return gradient


def _gradient_by_hand(config: Config) -> dict[str, torch.Tensor]:
    """A body of one process: the gradient of the mean loss over the whole batch at once."""
    students, images, ctx = build_students(config)
    (student,) = [student for student in students if student.role is Role.B]
    samples = images.table.labeled(Role.B, "own")
    (pixels,) = student.inputs([samples.sample_ids[:STEP_SIZE]], images.pixels)
    student.model.train()
    logits = student.model(pixels).cpu()
    F.cross_entropy(logits, samples.targets[:STEP_SIZE]).backward()
    ctx.runtime.close()
    return {name: p.grad.cpu().clone() for name, p in student.model.named_parameters()}


@pytest.mark.parametrize(
    ("num_ranks", "num_micro"), [pytest.param(4, 1, marks=pytest.mark.slow), (4, 2), (1, 2)]
)
def test_the_gradient_is_that_of_the_whole_step(
    num_ranks: int, num_micro: int, digits_folder: Path, tmp_path: Path
) -> None:
    """Parts are uneven: a mean over ranks of means over images would weigh images unequally."""
    expected = run_ranks(_gradient_by_hand, 1, tmp_path, _config(digits_folder, 1, 1))[0]
    config = _config(digits_folder, num_ranks, num_micro)
    found = run_ranks(_gradient_of_a_step, num_ranks, tmp_path, config)[-3:]
    assert max(values.abs().max() for values in expected.values()) > 1e-2
    for gradient in found:
        assert gradient.keys() == expected.keys()
        for name, values in gradient.items():
            assert torch.equal(values, found[0][name]), name
            torch.testing.assert_close(values, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def _average_a_table(config: Config) -> dict[str, torch.Tensor]:
    """A body: a table of constants and running means after the average at an epoch's end."""
    students, _, ctx = build_students(config)
    (student,) = students
    table = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    student.model.register_buffer("table", table.to(student.device))
    means = dict(student.model.named_buffers())
    name = next(name for name in means if name.endswith("running_mean"))
    means[name].fill_(float(student.group.index))
    average_buffers(student)
    ctx.runtime.close()
    return {"table": student.model.table.cpu() - table, "mean": means[name][:1].cpu()}


def test_only_what_differs_between_ranks_is_averaged(digits_folder: Path, tmp_path: Path) -> None:
    """The mean of three equal numbers may differ from them in its last bit."""
    config = tiny_config(digits_folder, tmp_path / "run", placement={"ranks_a": [0]})
    found = run_ranks(_average_a_table, 4, tmp_path, config)
    for own in found[1:]:
        assert own["mean"].item() == 1.0  # of 0, 1 and 2
        assert not own["table"].any()
    assert found[0]["mean"].item() == 0.0
