"""What reaches a step: views as chosen, mixed images, and keys that no number of ranks changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import build_students, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.method.mixing import draw_mixing
from cotrain_dist.method.steps import EpochPlan
from cotrain_dist.training.batches import load_batches, mix_batches
from cotrain_dist.types import Role


def _look(config: Config) -> dict[str, Any]:
    """A body: B's batches of one step of 10 images, loaded in several ways; nothing on A's rank."""
    students, images, ctx = build_students(config)
    seen = {}
    if students[-1].role is Role.B:
        seen = _load_in_several_ways(students[-1], images)
    ctx.runtime.close()
    return seen


def _load_in_several_ways(student: Any, images: Any) -> dict[str, Any]:
    learned = images.table.labeled(Role.B, "own")
    is_strong = torch.arange(len(learned)) % 2 == 0
    plan = EpochPlan((torch.arange(10),) * 2, student.group.size, 1)

    def load(rows: Any, plan: EpochPlan = plan) -> list[Any]:
        return list(load_batches(student, rows, plan, [0, 1], ("test",), images.pixels))

    def mix(num_micro: int) -> list[Any]:
        own = replace(plan, num_micro=num_micro)
        batches = load_batches(student, learned, own, [0, 1], ("test",), images.pixels)
        return list(mix_batches(student, batches, num_micro, [0, 1], ("mix", 0)))

    chosen = load(replace(learned, is_strong=is_strong))[0].views[0]
    ones = torch.ones(len(learned), dtype=torch.bool)
    soft = torch.full((40, 10), 0.1, dtype=torch.float16)
    return {
        "rows": plan.micro_batches(0, student.group.index)[0],
        "usual": load(learned)[0].views[0],
        "chosen": chosen,
        "strong": load(replace(learned, is_strong=ones))[0].views[0],
        "weak": load(replace(learned, is_strong=~ones))[0].views[0],
        "again": load(learned)[1].views[0],
        "repeated": [batch.views[0] for batch in load(learned, replace(plan, repeats=True))],
        "probs": load(replace(learned, soft=soft))[0].probs,
        "mixed": [(batch.views[0], batch.probs) for batch in mix(1)],
        "mixed by two": [len(batch.targets) for batch in mix(2)],
        "targets": learned.targets[:10],
    }


def _config(root: Path, tmp_path: Path, **train: Any) -> Config:
    return tiny_config(
        root,
        tmp_path / "run",
        data={"augment": "crop_flip"},
        placement={"ranks_a": [0]},
        train=train,
    )


def test_views_and_mixing_of_a_step(digits_folder: Path, tmp_path: Path) -> None:
    config = _config(digits_folder, tmp_path, mixup=0.4)
    whole = run_ranks(_look, 1, tmp_path, replace(config, placement=type(config.placement)()))[0]
    usual, strong, weak, chosen = (whole[name] for name in ("usual", "strong", "weak", "chosen"))
    assert torch.equal(chosen[::2], strong[::2])
    assert torch.equal(chosen[1::2], weak[1::2])
    torch.testing.assert_close(weak, usual, atol=1e-5, rtol=0)
    assert not torch.equal(strong, weak)
    # The same key, the same view; where rows repeat, the step is a part of the key.
    assert torch.equal(whole["again"], usual)
    first, second = whole["repeated"]
    assert not torch.equal(first, second)
    assert not torch.equal(first, usual)
    torch.testing.assert_close(whole["probs"], torch.full((10, 10), 0.1))

    parts = run_ranks(_look, 3, tmp_path, config)[1:]
    for name in ("usual", "chosen"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
    kept = draw_mixing(0.4, 0.0, "mix", 0, 0).kept
    for seen in (whole, *parts):
        images, probs = seen["mixed"][0]
        own = torch.nn.functional.one_hot(seen["targets"], 10).float()[seen["rows"]]
        # Each target keeps λ of itself, the same on every rank, and gets the rest of a partner.
        rest = (probs - kept * own) / (1 - kept)
        torch.testing.assert_close(rest.sum(dim=1), torch.ones(len(rest)))
        assert sorted(rest.argmax(dim=1).tolist()) == sorted(own.argmax(dim=1).tolist())
        assert images.shape == seen["usual"].shape
        assert not torch.equal(images, seen["usual"])
        assert seen["mixed by two"] == [len(part) for part in seen["rows"].tensor_split(2)] * 2


@pytest.mark.slow
def test_a_training_with_mixing_and_strong_views_is_one_of_its_key(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """One process and two ranks, one for each model: equal bits, as without."""
    runs = []
    for num_ranks in (1, 2):
        run = tmp_path / f"run-{num_ranks}"
        config = tiny_config(
            digits_folder,
            run,
            data={"augment": "crop_flip"},
            model_a={"name": "test_efficientnet", "init_from": str(pretrained / "a")},
            model_b={"name": "test_efficientnet", "init_from": str(pretrained / "b")},
            pretrain={"num_epochs": 0},
            train={"mixup": 0.2, "cutmix": 1.0, "pseudo_view": "in_turn", "accumulation_steps": 2},
        )
        run_ranks(train_run, num_ranks, tmp_path, config)
        runs.append(run)
    assert history_of(runs[0]) == history_of(runs[1])
    assert history_of(runs[0])[-1]["num_selected_a"] > 0
    for name in ("a", "b"):
        one, other = ((run / "models" / name / "model.safetensors").read_bytes() for run in runs)
        assert one == other
