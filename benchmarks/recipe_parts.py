"""What is each part of `recipe: synergy` worth? Heads, one part changed at a time, on V.

    python benchmarks/recipe_parts.py CLASS_FOLDERS START_A START_B OUTPUT [--seeds 100 101 102]
        [--num_labels 612] [--parts NAME ..]

Labels are drawn at random. Each seed draws its own T (never looked at), V and labels; every part is
one training on the same splits, kept in OUTPUT and not run again. Prints the vote of both models on
V in %: mean, standard deviation and the gain over labels alone, paired by seed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import draw_split_table
from cotrain_dist.keys import keyed_generator
from cotrain_dist.store import atomic
from cotrain_dist.study.labels import pool_of
from cotrain_dist.study.labels_by import with_labels

VOTES = ("--pool.keep", "votes", "--structure.kind", "off", "--selection.targets", "hard")
ONE_MORE = ("--cotrain.num_epochs", "2", "--cotrain.epochs_per_round", "1")
PARTS: dict[str, Sequence[str]] = {
    "synergy": (),
    "labels alone": ("--exchange", "none"),
    "no structure of U": ("--structure.kind", "off"),
    "graph instead of class means": ("--structure.kind", "graph"),
    "no calibration": ("--selection.temperature", "off"),
    "hard labels": ("--selection.targets", "hard"),
    "no vote behind the class means": ("--structure.vote_weight", "0"),
    "all classes alike": ("--structure.prior_power", "0"),
    "less whitening": ("--structure.shrinkage", "10"),
    "two rounds": ONE_MORE,
    "the vote learned at the end": ("--cotrain.final_epochs", "1"),
    "rule agreement": (*VOTES, "--selection.rule", "agreement"),
    "rule agreement_peer": (*VOTES, "--selection.rule", "agreement_peer"),
    "rule confident_peer": (*VOTES, "--selection.rule", "confident_peer"),
    "the paper's rule": (*VOTES, "--selection.rule", "disagreement"),
}


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("images", "start_a", "start_b", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--num_labels", type=int, default=612)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--image_size", type=int, default=112)
    given = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in given.parts}
    for seed in given.seeds:
        for name in given.parts:
            found[name].append(measure(given, seed, name))
            print(f"seed {seed}, {name}: {found[name][-1]:.1f}", flush=True)
    base = found.get("labels alone")
    for name, values in found.items():
        line = f"{name:32s} {mean(values):.1f}"
        line += f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        if base is not None:
            line += f"  {mean(values) - mean(base):+.1f}"
        print(line)


def measure(given: argparse.Namespace, seed: int, name: str) -> float:
    """The vote of both on V in %, of one training."""
    run = given.output / f"seed-{seed}" / name.replace(" ", "-").replace("'", "")
    if not (run / "run.json").is_file() or not json.loads((run / "run.json").read_text()).get(
        "finished"
    ):
        words = ["--resume", run] if (run / "run.json").is_file() else new_run(given, seed, name)
        words += ["--output_dir", run] if "--resume" not in words else []
        command = [sys.executable, "-m", "cotrain_dist", "train", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    return float(100 * last["validation"]["ensemble"]["top1"])


def new_run(given: argparse.Namespace, seed: int, name: str) -> list[Any]:
    """The arguments of a training that has not begun."""
    return [
        *("--recipe", "synergy", "--seed", seed, "--device", "cpu"),
        *("--data.root", given.images, "--data.image_size", given.image_size),
        *("--data.validation_fraction", 0.2, "--data.splits_from", splits_of(given, seed)),
        *("--model_a.pretrained", given.start_a, "--model_a.train", "head"),
        *("--model_b.pretrained", given.start_b, "--model_b.train", "head"),
        *("--pretrain.num_epochs", 1, "--pretrain.warmup_epochs", 0),
        *("--cotrain.warmup_epochs", 0),
        *(() if "--cotrain.num_epochs" in PARTS[name] else ("--cotrain.num_epochs", 1)),
        *PARTS[name],
    ]


def splits_of(given: argparse.Namespace, seed: int) -> Path:
    """T, V, and labels at random from the rest: the same for all parts of a seed."""
    file: Path = given.output / f"seed-{seed}" / "splits.parquet"
    if not file.is_file():
        data = DataConfig(
            source="imagefolder",
            root=str(given.images),
            test_fraction=getattr(given, "test_fraction", 0.2),
            validation_fraction=0.2,
            labeled_fraction=0.1,  # drawn anew below
        )
        table = draw_split_table(list_images(data), data, seed)
        pool = pool_of(table)
        order = torch.randperm(len(pool), generator=keyed_generator(seed, "labels at random"))
        file.parent.mkdir(parents=True, exist_ok=True)
        chosen = pool[order[: given.num_labels]].tolist()
        atomic.write_bytes(file, with_labels(table, chosen).to_parquet())
    return file


if __name__ == "__main__":
    main()
