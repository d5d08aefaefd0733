"""Epoch time of two one-thread ranks against one process with two threads, side by side.

python benchmarks/two_ranks_or_two_threads.py CALTECH101_FOLDER [REPEATS]

The two ways take turns, so that a drift of the machine meets both. Prints the seconds of every
measured epoch, medians and the ratio.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
TRAIN = ["-m", "cotrain_dist", "train", "--config", "configs/caltech101_64px.yaml"]
TRAIN += ["--pretrain.num_epochs", "2", "--pretrain.warmup_epochs", "1"]
TRAIN += ["--cotrain.num_epochs", "2", "--selection.threshold", "0.05"]
LAUNCH = [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
WAYS = {"2 ranks x 1 thread": (LAUNCH, "1"), "1 process x 2 threads": ([sys.executable], "2")}


def measure(command: list[str], num_threads: str, root: str, folder: Path) -> dict[str, float]:
    """Seconds of the second pre-training epoch (both models) and of the second of Step 2."""
    arguments = [*command, *TRAIN, "--data.root", root, "--output_dir", str(folder)]
    environ = os.environ | {"OMP_NUM_THREADS": num_threads}
    subprocess.run(arguments, env=environ, check=True, stdout=subprocess.DEVNULL, timeout=1800)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    train = {x["role"]: x["seconds"]["train"] for x in lines if x["phase"] == "pretrain"}
    together = num_threads == "1"  # the ranks train at the same time, the process in turn
    step_two = [line for line in lines if line["phase"] == "cotrain"][-1]
    return {
        "pre-training epoch": max(train.values()) if together else sum(train.values()),
        "epoch of Step 2": step_two["seconds"],
    }


def main(root: str, num_repeats: int) -> None:
    """Run both ways in turn and print."""
    seconds: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(num_repeats):
            for number, (way, (command, num_threads)) in enumerate(WAYS.items()):
                target = Path(folder) / f"{repeat}-{number}"
                for what, value in measure(command, num_threads, root, target).items():
                    seconds[way].setdefault(what, []).append(value)
    ranks, threads = seconds.values()
    for what in ranks:
        for way, measured in seconds.items():
            values = ", ".join(f"{value:.1f}" for value in measured[what])
            print(f"{what}, {way}: median {statistics.median(measured[what]):.1f} s ({values})")
        ratios = [a / b for a, b in zip(threads[what], ranks[what], strict=True)]
        print(f"{what}: one process takes {statistics.median(ratios):.2f} times as long")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
