"""`train.norm`: batch normalization over all ranks of a model, or with statistics that stay."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from ranks import GradientRecorder, build_students, run_ranks, tiny_config, train_run
from torch import nn

from cotrain_dist.config import Config
from cotrain_dist.method.steps import EpochPlan
from cotrain_dist.training.norm import synchronize_norms
from cotrain_dist.training.steps import load_batches, train_step
from cotrain_dist.types import Role

STEP_SIZE = 11  # images: 6 and 5 of them on two ranks


def _config(root: Path, name: str, norm: str, num_ranks: int) -> Config:
    return tiny_config(
        root,
        Path("never-made"),
        model_b={"name": name},
        train={"norm": norm},
        placement={"ranks_a": [0] if num_ranks > 1 else None},
    )


def step_of_b(config: Config) -> dict[str, dict[str, torch.Tensor]] | None:
    """A body: gradients, buffers and this rank's part of the loss after one step of B."""
    students, images, ctx = build_students(config)
    seen = None
    for student in students:
        if student.role is Role.B:
            learned = images.table.labeled(Role.B, "own")
            plan = EpochPlan((torch.arange(STEP_SIZE),), student.group.size, 1)
            batches = load_batches(student, learned, plan, [0], ("test",), images.pixels)
            student.optimizer = GradientRecorder(student.model)
            student.trained.train()
            loss = train_step(student, batches, 1, STEP_SIZE, ("test",))
            seen = {
                "gradient": student.optimizer.gradient,
                "buffers": {name: b.cpu().clone() for name, b in student.model.named_buffers()},
                "loss": {"sum": loss.total.cpu()},
            }
    ctx.runtime.close()
    return seen


def _largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    assert found.keys() == expected.keys()
    scale = max(float(values.abs().max()) for values in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / scale


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_two_ranks_take_the_step_of_one(name: str, digits_folder: Path, tmp_path: Path) -> None:
    """The normalization of timm with its activation, and torch's own. Parts are uneven."""
    (alone,) = run_ranks(step_of_b, 1, tmp_path, _config(digits_folder, name, "local", 1))
    seen = {
        norm: run_ranks(step_of_b, 3, tmp_path, _config(digits_folder, name, norm, 3))[1:]
        for norm in ("sync", "local")
    }
    apart = {
        norm: _largest_difference(ranks[0]["gradient"], alone["gradient"])
        for norm, ranks in seen.items()
    }
    # In parts of the largest gradient: rounding of single precision, 2e-5 seen. Other statistics
    # make tenths.
    assert apart["sync"] < 1e-4
    assert apart["local"] > 1e-2
    first, second = seen["sync"]
    loss = first["loss"]["sum"] + second["loss"]["sum"]
    torch.testing.assert_close(loss, alone["loss"]["sum"], rtol=1e-4, atol=0.0)
    for buffer, values in first["buffers"].items():
        assert torch.equal(values, second["buffers"][buffer]), buffer
        torch.testing.assert_close(values, alone["buffers"][buffer], rtol=1e-5, atol=1e-6)
    assert any(
        not torch.equal(values, seen["local"][1]["buffers"][buffer])
        for buffer, values in seen["local"][0]["buffers"].items()
    )


CASES: dict[str, tuple[nn.Module, tuple[int, ...], torch.dtype]] = {
    "images": (nn.BatchNorm2d(4), (6, 4, 5, 5), torch.float32),
    "features": (nn.BatchNorm1d(4), (6, 4), torch.float32),
    "bf16": (nn.BatchNorm2d(4), (6, 4, 5, 5), torch.bfloat16),
    "no parameters": (nn.BatchNorm2d(4, affine=False), (6, 4, 5, 5), torch.float32),
    "no statistics": (nn.BatchNorm2d(4, track_running_stats=False), (6, 4, 5, 5), torch.float32),
    "a mean over all steps": (nn.BatchNorm2d(4, momentum=None), (6, 4, 5, 5), torch.float32),
    "far from zero": (nn.BatchNorm2d(4), (6, 4, 50, 50), torch.float32),
}


def beside_torch(name: str, folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A body: what two steps and an evaluation give, here and with torch's own layer."""
    module, shape, dtype = CASES[name]
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    synced = copy.deepcopy(module)
    synchronize_norms(synced, dist.group.WORLD)
    found = []
    for layer in (synced, module):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        images = (images * 0.1 + (300.0 if name == "far from zero" else 1.0)).to(dtype)
        images.requires_grad_()
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        for _ in range(2):
            out = layer(images)
            (out.float() * weights).sum().backward()
        seen = {"out": out, "gradient": images.grad, "evaluated": layer.eval()(images)}
        seen |= {f"{key}.grad": p.grad for key, p in layer.named_parameters()}
        found.append({key: t.detach() for key, t in (seen | layer.state_dict()).items()})
    dist.destroy_process_group()
    assert found[0].keys() == found[1].keys()
    return {key: (found[0][key], found[1][key]) for key in found[1]}


@pytest.mark.parametrize("name", list(CASES))
def test_on_one_rank_it_is_torch_s_own(name: str, tmp_path: Path) -> None:
    (found,) = run_ranks(beside_torch, 1, tmp_path, name, tmp_path)
    rough = {"bf16": 2e-2, "far from zero": 1e-3}.get(name, 1e-5)
    assert len(found) >= 3
    for key, (here, expected) in found.items():
        assert here.dtype == expected.dtype, key
        scale = float(expected.abs().max()) or 1.0
        assert float((here - expected).abs().max()) <= rough * scale, key


def test_a_synchronized_run_leaves_plain_models(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_a={"name": "test_efficientnet"},
        train={"norm": "sync", "accumulation_steps": 2},
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 1},
        placement={"ranks_a": [0, 1]},
    )
    run_ranks(train_run, 3, tmp_path, config)
    saved = timm.create_model(f"local-dir:{tmp_path}/run/models/a", pretrained=True)
    plain = timm.create_model("test_efficientnet", num_classes=10)
    assert type(saved.bn1) is type(plain.bn1)
    assert saved.state_dict().keys() == plain.state_dict().keys()
    assert int(saved.bn1.num_batches_tracked) > 0


def _frozen(root: Path, run: Path, starts: dict[str, str], num_ranks: int) -> Config:
    return tiny_config(
        root,
        run,
        model_a={"name": None, "pretrained": starts["a"]},
        model_b={"name": None, "pretrained": starts["b"]},
        train={"norm": "frozen"},
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 1},
        placement={"ranks_a": [0] if num_ranks > 1 else None},
    )


@pytest.mark.slow
def test_with_frozen_statistics_two_ranks_take_the_step_of_one(
    digits_folder: Path, tmp_path: Path, starts: dict[str, str]
) -> None:
    """No image depends on those beside it, so no collective is needed for it."""
    never = tmp_path / "never-made"
    (alone,) = run_ranks(step_of_b, 1, tmp_path, _frozen(digits_folder, never, starts, 1))
    first, second = run_ranks(step_of_b, 3, tmp_path, _frozen(digits_folder, never, starts, 3))[1:]
    assert _largest_difference(first["gradient"], alone["gradient"]) < 1e-4
    for buffer, values in alone["buffers"].items():
        assert torch.equal(values, first["buffers"][buffer]), buffer
        assert torch.equal(values, second["buffers"][buffer]), buffer


def test_a_frozen_run_keeps_the_statistics_of_its_start(
    digits_folder: Path, tmp_path: Path, starts: dict[str, str]
) -> None:
    run_ranks(train_run, 1, tmp_path, _frozen(digits_folder, tmp_path / "run", starts, 1))
    for role, start in starts.items():
        begun = timm.create_model(f"local-dir:{start}", pretrained=True).state_dict()
        saved = timm.create_model(f"local-dir:{tmp_path}/run/models/{role}", pretrained=True)
        plain = timm.create_model(Path(start).name, num_classes=10)
        assert [type(own) for own in saved.modules()] == [type(own) for own in plain.modules()]
        names = [name for name in begun if name.endswith(("running_mean", "running_var"))]
        assert names
        for name, values in saved.state_dict().items():
            if name in names:
                assert torch.equal(values, begun[name]), name
        assert not torch.equal(saved.state_dict()["bn1.weight"], begun["bn1.weight"])
