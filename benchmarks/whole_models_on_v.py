"""Whole models, fine-tuned: settings of the vote, of the ceiling and of synergy, on V.

    python benchmarks/whole_models_on_v.py CLASS_FOLDERS START_A START_B OUTPUT [--seeds 100]
        [--num_labels 612] [--image_size 112] [--trials NAME ..]

The grid behind the study of fine-tuned models: as many trials for what labels alone give as for
what U gives, each in two ranks. Labels at random, one T (never looked at) and one V per seed, as
in recipe_parts.py, whose functions draw them. A finished trial is kept in OUTPUT and not run again,
one that was killed goes on. Prints A, B and the vote on V in %.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe_parts import splits_of

LABELS = ("--recipe", "paper", "--labels", "shared", "--pretrain.labels", "shared")
ALONE = (*LABELS, "--exchange", "none", "--cotrain.num_epochs", "0")
FITTED = ("--pretrain.fit_head", "true")
SHORT, LONG = ("--pretrain.num_epochs", "12"), ("--pretrain.num_epochs", "33")
STRONG = ("--data.augment", "strong")


def rate(value: float) -> Sequence[str]:
    """Of both steps."""
    return ("--pretrain.learning_rate", str(value), "--cotrain.learning_rate", str(value))


FROZEN = ("--train.norm", "frozen")
STEP_TWO = ("--cotrain.num_epochs", "2", "--recipe", "synergy")
SYNERGY = (*FITTED, *SHORT, *STEP_TWO)
CHOSEN = (*SYNERGY, *rate(1e-3), *FROZEN)
LONGER = (
    *(*FITTED, *SHORT, *rate(1e-3), *FROZEN),
    *("--cotrain.num_epochs", "4", "--recipe", "synergy"),
)
HEADS_TEACH = (
    *(*FITTED, *STEP_TWO, "--pretrain.num_epochs", "1"),
    *("--pretrain.learning_rate", "1e-7", "--pretrain.min_learning_rate", "1e-7"),
)
"""A Step 1 that moves nothing but the heads, which are fitted before it."""
AT_CHOSEN = ("--cotrain.learning_rate", "1e-3")
TRIALS: dict[str, Sequence[str]] = {
    # 10 steps of 64 an epoch: 120 steps, and as many as synergy takes with its epochs over U.
    "labels, random head, 1e-3": (*ALONE, *SHORT, *rate(1e-3)),
    "labels, fitted head, 1e-4": (*ALONE, *FITTED, *SHORT, *rate(1e-4)),
    "labels, fitted head, 3e-4": (*ALONE, *FITTED, *SHORT, *rate(3e-4)),
    "labels, fitted head, 1e-3": (*ALONE, *FITTED, *SHORT, *rate(1e-3)),
    "labels, fitted head, 3e-4, strong": (*ALONE, *FITTED, *SHORT, *rate(3e-4), *STRONG),
    "labels, fitted head, 3e-4, long": (*ALONE, *FITTED, *LONG, *rate(3e-4)),
    "labels, fitted head, 3e-4, strong, long": (*ALONE, *FITTED, *LONG, *rate(3e-4), *STRONG),
    "synergy, 1e-4": (*SYNERGY, *rate(1e-4)),
    "synergy, 3e-4": (*SYNERGY, *rate(3e-4)),
    "synergy, 1e-3": (*SYNERGY, *rate(1e-3)),
    "synergy, 3e-4, all views strong": (*SYNERGY, *rate(3e-4), *STRONG),
    "synergy, 3e-4, current features": (
        *(*SYNERGY, *rate(3e-4)),
        *("--structure.features", "current"),
    ),
    # Batch normalization: the statistics of 2,000 labeled views, or those of the start.
    "synergy, heads teach": (*HEADS_TEACH, *AT_CHOSEN),
    "labels, fitted head, 1e-3, frozen norms": (
        *(*ALONE, *FITTED, *SHORT, *rate(1e-3)),
        *FROZEN,
    ),
    "labels, fitted head, 3e-4, frozen norms": (
        *(*ALONE, *FITTED, *SHORT, *rate(3e-4)),
        *FROZEN,
    ),
    "synergy, frozen norms": CHOSEN,
    "synergy, 3e-4 then 1e-3, frozen norms": (
        *(*SYNERGY, *FROZEN),
        *("--pretrain.learning_rate", "3e-4", "--cotrain.learning_rate", "1e-3"),
    ),
    "synergy, 3e-4, frozen norms": (*SYNERGY, *FROZEN, *rate(3e-4)),
    # From here on one thing changed at a time.
    "synergy, heads teach, frozen norms": (*HEADS_TEACH, *AT_CHOSEN, *FROZEN),
    "synergy, free thresholds": (
        *(*CHOSEN, "--consistency.teacher", "own", "--consistency.policy", "free"),
        *("--consistency.fairness", "0.01", "--consistency.ratio", "1"),
    ),
    "synergy, weak views of R": (*CHOSEN, "--train.pseudo_view", "same"),
    "synergy, strong views of R": (*CHOSEN, "--train.pseudo_view", "strong"),
    "synergy, hard labels": (*CHOSEN, "--selection.targets", "hard"),
    "synergy, no structure": (*CHOSEN, "--structure.kind", "off"),
    "synergy, graph": (*CHOSEN, "--structure.kind", "graph"),
    "synergy, current features": (*CHOSEN, "--structure.features", "current"),
    "synergy, two rounds": (*LONGER, "--cotrain.epochs_per_round", "2"),
    "synergy, four epochs": LONGER,
}


def main() -> None:
    """Run what is missing, print what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("images", "start_a", "start_b", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100])
    parser.add_argument("--num_labels", type=int, default=612)
    parser.add_argument("--image_size", type=int, default=112)
    parser.add_argument("--test_fraction", type=float, default=0.2)
    parser.add_argument("--trials", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    given = parser.parse_args()
    for name in given.trials:
        for seed in given.seeds:
            run = given.output / f"seed-{seed}" / name.replace(",", "").replace(" ", "-")
            _run(given, seed, name, run)
            print(f"seed {seed}, {name}: {_found(run)}", flush=True)


def _run(given: argparse.Namespace, seed: int, name: str, run: Path) -> None:
    begun = (run / "run.json").is_file()
    if begun and json.loads((run / "run.json").read_text()).get("finished"):
        return
    words = ["--resume", run] if begun else [*_settings(given, seed), *TRIALS[name]]
    words += [] if begun else ["--output_dir", run]
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "-m", "cotrain_dist", "train"),
    ]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, *map(str, words)], check=True, stdout=subprocess.DEVNULL, env=environ)


def _settings(given: argparse.Namespace, seed: int) -> list[object]:
    return [
        *("--seed", seed, "--device", "cpu", "--data.root", given.images),
        *("--data.image_size", given.image_size),
        *("--data.augment", "crop_flip", "--data.crop_min_area", 0.5),
        *("--data.test_fraction", given.test_fraction, "--data.validation_fraction", 0.2),
        *("--data.splits_from", splits_of(given, seed), "--pretrain.eval_every_epochs", 1000),
        *("--model_a.pretrained", given.start_a, "--model_b.pretrained", given.start_b),
    ]


def _found(run: Path) -> str:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["phase"] == "cotrain"]
    parts = []
    for line in lines:
        values = line["validation"]
        figures = ", ".join(f"{values[k]['top1']:.1%}" for k in ("a", "b", "ensemble"))
        parts.append(f"epoch {line['epoch']}: {figures}")
    seconds = sum(line["seconds"] for line in lines)
    return f"{'; '.join(parts)} ({seconds / 60:.1f} min in Step 2)"


if __name__ == "__main__":
    main()
