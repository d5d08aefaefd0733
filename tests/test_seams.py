"""Where something new goes (docs/architecture.md): tried on a copy of the package, and run.

Each edit is what the table there says: a function with its `case`, a name in the config, one file.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from ranks import build_students, run_ranks, tiny_config

from cotrain_dist.config import Config, SelectionConfig, TrainConfig
from cotrain_dist.method.losses import batch_loss
from cotrain_dist.method.selection import select
from cotrain_dist.method.steps import EpochPlan
from cotrain_dist.method.thresholds import fixed_cuts
from cotrain_dist.training.steps import load_batches, train_step
from cotrain_dist.types import Batch, TrainingSet, Votes

PACKAGE = Path(__file__).parents[1] / "cotrain_dist"

RULE = '''

def select_halves(votes: Votes, *, cuts: Tensor) -> Selection:
    """Both name one class and both are sure: A teaches the even images, B the odd ones."""
    agreed = select_agreement(votes, cuts=cuts).a
    even = torch.arange(agreed.numel()) % 2 == 0
    return Selection(a=agreed & even, b=agreed & ~even)
'''

LOSS = '''

def two_views(weak: Tensor, strong: Tensor, batch: Batch) -> Tensor:
    """The mean of the cross entropies of two views."""
    both = [cross_entropy(logits, batch, label_smoothing=0.0) for logits in (weak, strong)]
    return (both[0] + both[1]) / 2
'''

COMMAND = '''
"""`cotrain-dist greet NAME`: says hello."""

USAGE = "greet NAME"


def run(arguments):
    """Run the command; returns the exit code."""
    print("hello", *arguments)
    return 0
'''

EDITS = {
    "method/selection.py": [
        (
            '        case "disagreement":\n',
            '        case "halves":\n'
            "            return select_halves(votes, cuts=cuts)\n"
            '        case "disagreement":\n',
        ),
        (None, RULE),
    ],
    "config/running.py": [('        "mean_soft",\n', '        "mean_soft",\n        "halves",\n')],
    "method/losses.py": [
        (
            '        case "cross_entropy":\n',
            '        case "two_views":\n'
            "            return two_views(logits[0], logits[1], batch)\n"
            '        case "cross_entropy":\n',
        ),
        (None, LOSS),
    ],
    "config/training.py": [('Literal["cross_entropy"]', 'Literal["cross_entropy", "two_views"]')],
    "training/batches.py": [
        (
            "views=(student.augmented(batch, sample_ids, *key, is_strong=strong),)",
            "views=(\n"
            "                student.augmented(batch, sample_ids, *key, is_strong=strong),\n"
            '                student.augmented(batch, sample_ids, "second", *key),\n'
            "            )",
        ),
    ],
    "cli/commands/greet.py": [(None, COMMAND)],
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with all edits; the folder that holds it."""
    root = tmp_path_factory.mktemp("edited")
    shutil.copytree(PACKAGE, root / "cotrain_dist", ignore=shutil.ignore_patterns("__pycache__"))
    for name, edits in EDITS.items():
        file = root / "cotrain_dist" / name
        text = file.read_text() if file.exists() else ""
        for before, after in edits:
            if before is None:
                text += after
                continue
            assert text.count(before) == 1, f"{name}: {before}"
            text = text.replace(before, after)
        file.write_text(text.lstrip())
    return root


def run_edited(root: Path, *arguments: str) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-m", "cotrain_dist", *arguments],
        env=environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_command_is_one_file(edited: Path) -> None:
    assert "       cotrain-dist greet NAME\n" in run_edited(edited, "--help")
    assert run_edited(edited, "greet", "you") == "hello you\n"


@pytest.mark.slow
def test_a_rule_a_loss_and_a_view_train(edited: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {
        **{"data.image_size": 16, "data.labeled_per_class": 4, "data.augment": "crop_flip"},
        **{"model_a.name": "test_resnet", "model_b.name": "test_resnet"},
        **{"pretrain.num_epochs": 12, "pretrain.warmup_epochs": 0, "cotrain.num_epochs": 1},
        **{"cotrain.warmup_epochs": 0, "pretrain.learning_rate": 0.003, "train.batch_size": 20},
        **{"selection.rule": "halves", "selection.threshold": 0.4, "train.loss": "two_views"},
        **{"device": "cpu", "output_dir": run},
    }
    run_edited(edited, "train", *(str(w) for k, v in settings.items() for w in (f"--{k}", v)))
    line = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    sizes = [line["num_selected_a"], line["num_selected_b"]]
    assert min(sizes) > 10, "both models are sure of the same class on some images"
    agreed = line["pool"]["agree_a"]
    assert sum(sizes) < sum(agreed["num_images"])
    assert line["fit_a"]["loss"] > 0.0


def test_every_name_of_the_config_is_a_rule_or_a_loss() -> None:
    rules = get_args(get_type_hints(SelectionConfig)["rule"])
    losses = get_args(get_type_hints(TrainConfig)["loss"])
    assert rules
    assert losses
    votes = Votes(torch.zeros(3, 1, dtype=torch.uint16), torch.zeros(3, 1, dtype=torch.int16))
    batch = Batch((), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool))
    for rule in rules:
        select(votes, rule, cuts=fixed_cuts(0.5))
    for loss in losses:
        batch_loss(loss, [torch.zeros(1, 2)] * 2, batch, label_smoothing=0.0)
    with pytest.raises(AssertionError, match="is no value of the config"):
        select(votes, "nonsense", cuts=fixed_cuts(0.5))
    with pytest.raises(AssertionError, match="is no value of the config"):
        batch_loss("nonsense", [], batch, label_smoothing=0.0)


def _weighted_gradients(config: Config) -> dict[str, list[Any]]:
    """A body: A's gradient of one step, with weights and by leaving out; by name of the way."""
    students, images, ctx = build_students(config)
    student = students[0]
    learned = images.table.labeled(student.role, "own")
    weights = (torch.arange(len(learned)) % 2).float()
    kept = weights.bool()
    ways = {
        "weighted": TrainingSet(learned.sample_ids, learned.targets, learned.is_pseudo, weights),
        "left out": TrainingSet(
            learned.sample_ids[kept], learned.targets[kept], learned.is_pseudo[kept]
        ),
        "all": learned,
    }
    found = {}
    student.trained.train()
    student.optimizer.step = lambda: None  # type: ignore[method-assign]
    zero_grad, student.optimizer.zero_grad = student.optimizer.zero_grad, lambda **_: None
    for way, rows in ways.items():
        zero_grad()
        plan = EpochPlan((torch.arange(len(rows)),), num_shards=1, num_micro=1)
        batches = load_batches(student, rows, plan, [0], ("test",), images.pixels)
        loss = float(train_step(student, batches, 1, len(learned), ("test",)).total)
        found[way] = [loss, [p.grad.clone() for p in student.model.parameters()]]
    ctx.runtime.close()
    return found


def test_a_weight_reaches_the_loss(digits_folder: Path, tmp_path: Path) -> None:
    """A weight of 0 is the same as leaving the image out; the model has no batch normalization."""
    config = tiny_config(digits_folder, tmp_path / "run", model_a={"name": "test_vit"})
    (found,) = run_ranks(_weighted_gradients, 1, tmp_path, config)
    (loss, gradients), (expected, others) = found["weighted"], found["left out"]
    assert loss == pytest.approx(expected, rel=1e-5)
    assert loss < 0.9 * found["all"][0]
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)
