"""The same votes from the same weights: 1 to 4 processes, the pixel cache cold, warm and off.

    python benchmarks/same_votes.py CLASS_FOLDERS

Two models are trained for some epochs; each run begins Step 2 with their weights and labels U. What
it says of U, and R_A and R_B by class, is compared with the run of one process without a cache.
Exit code 1 on a difference.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = "mobilenetv3_small_100"
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes"]
OF_VOTES = ("agreement_rate", "num_equal_codes", "never_selected_fraction", "pool")
OF_R = ("num_selected", "selected_class_histogram", "selected_right_histogram")


NUM_EPOCHS = 12


def train(root: Path, cache: str, num_ranks: int, run: Path, *further: str) -> None:
    """One training, in a world of so many processes."""
    words = ["--data.root", str(root), "--data.image_size", "64", "--data.cache", cache]
    words += ["--model_a.name", MODEL, "--model_b.name", MODEL, "--device", "cpu"]
    words += ["--selection.threshold", "0.5", "--output_dir", str(run), *further]
    launch = [*LAUNCH, str(num_ranks)] if num_ranks > 1 else []
    subprocess.run(
        [sys.executable, *launch, "-m", "cotrain_dist", "train", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def votes_of(root: Path, cache: str, num_ranks: int, run: Path, start: Path) -> dict[str, Any]:
    """What the first epoch of Step 2 says of U."""
    further = ["--pretrain.num_epochs", "0", "--cotrain.num_epochs", "1"]
    for role in ("a", "b"):
        further += [f"--model_{role}.init_from", str(start / "models" / role)]
    train(root, cache, num_ranks, run, *further)
    line = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    keys = [*OF_VOTES, *(f"{key}_{role}" for key in OF_R for role in "ab")]
    return {key: line[key] for key in keys}


def main() -> int:
    """Run, compare and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    is_equal = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        epochs = ["--pretrain.num_epochs", str(NUM_EPOCHS), "--cotrain.num_epochs", "0"]
        train(root, str(folder / "cache"), 1, folder / "start", *epochs)
        first = votes_of(root, "off", 1, folder / "off", folder / "start")
        print(
            f"1 process, no cache: agreement {first['agreement_rate']:.4f}, "
            f"R_A {first['num_selected_a']}, R_B {first['num_selected_b']}",
            flush=True,
        )
        for num_ranks in (1, 2, 3, 4):
            for way in ("cold", "warm"):
                cache, run = folder / f"cache-{num_ranks}", folder / f"{way}-{num_ranks}"
                found = votes_of(root, str(cache), num_ranks, run, folder / "start")
                is_equal &= found == first
                verdict = "equal" if found == first else "DIFFERENT"
                print(f"{num_ranks} process(es), cache {way}: {verdict}", flush=True)
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
