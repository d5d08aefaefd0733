"""`make bench`: every target of speed and memory, measured in one run, told and written down.

    python benchmarks/bench.py [--data_root PATH/TO/caltech101] [--write docs/performance.md]

Prints one line for each target, which ends in met or missed, and writes tables between the marks
of a file. Under fifteen minutes on two cores, with nothing else running; else the figures say
little. Without a data set, images are generated.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import exchange
import image_path
import memory
import start
import timm
import torch
from targets import Target

from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.splits import Split

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- make bench: begin -->\n", "<!-- make bench: end -->\n"
WORLDS = (1, 2, 4)
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes"]
MODEL = "mobilenetv3_small_100"


def speeds_in_worlds(root: Path) -> dict[int, tuple[float, float]]:
    """Images per second of both models together, by number of one-thread ranks: in the last epoch
    of Step 1, and in the last pass over U.
    """
    found = {}
    with tempfile.TemporaryDirectory() as name:
        words = ["--data.root", str(root), "--data.image_size", "64", "--data.cache", f"{name}/c"]
        words += ["--model_a.name", MODEL, "--model_b.name", MODEL, "--device", "cpu"]
        words += ["--pretrain.num_epochs", "2", "--cotrain.num_epochs", "2"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for num_ranks in WORLDS:
            run = Path(name) / f"run-{num_ranks}"
            launch = [*LAUNCH, str(num_ranks)] if num_ranks > 1 else []
            command = [sys.executable, *launch, "-m", "cotrain_dist", "train", *words]
            command += ["--output_dir", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environ)
            found[num_ranks] = _speeds_of(run, num_ranks)
    return found


def _speeds_of(run: Path, num_ranks: int) -> tuple[float, float]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    last = {line["role"]: line for line in lines if line["phase"] == "pretrain"}
    seconds = [line["seconds"]["train"] for line in last.values()]
    # One process trains one model after the other; on ranks of their own they train at one time.
    took = sum(seconds) if num_ranks == 1 else max(seconds)
    num_labels = 2 * len(load_split_table(run).sample_ids(Split.U))
    slowest = max(rank["pseudo_label"] for rank in lines[-1]["seconds_by_rank"])
    return sum(line["num_samples"] for line in last.values()) / took, num_labels / slowest


def report(targets: Sequence[Target], worlds: dict[int, tuple[float, float]], what: str) -> str:
    """The tables, in Markdown."""
    lines = [
        f"Measured {date.today()} on {os.cpu_count()} cores of {_processor()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, {what}.",
        "",
        "| target | median | least and most | bound | |",
        "|---|---|---|---|---|",
    ]
    for target in targets:
        unit = f" {target.unit}" if target.unit else ""
        lines.append(
            f"| {target.name} | {median(target.values):.2f}{unit} | {min(target.values):.2f} to "
            f"{max(target.values):.2f} ({len(target.values)}) | "
            f"{'≥' if target.is_least else '≤'} {target.bound:g}{unit} | "
            f"{'met' if target.is_met else '**missed**'} |"
        )
    lines += ["", "| what was measured | median | least and most |", "|---|---|---|"]
    for target in targets:
        for name, values in target.measured.items():
            own = f"{target.name.split(':')[0]}: {name}"
            spread = f"{_rounded(min(values))} to {_rounded(max(values))}"
            lines.append(f"| {own} | {_rounded(median(values))} | {spread} |")
    lines += [
        "",
        f"Images per second of both models together ({MODEL}, 64 pixels, cache warm):",
        "",
        "| ranks of one thread | training | pass over U |",
        "|---|---|---|",
        *(f"| {num} | {train:.0f} | {label:.0f} |" for num, (train, label) in worlds.items()),
    ]
    return "\n".join(lines) + "\n"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def write_between_marks(file: Path, text: str) -> None:
    """Replace what stands between the marks of a file."""
    before, rest = file.read_text().split(BEGIN)
    after = rest.split(END)[1]
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Measure all, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_root", type=Path)
    parser.add_argument("--write", type=Path)
    own = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root = own.data_root or image_path.generate_images(Path(name))
        found: list[Target] = []
        of_images = partial(image_path.targets, root)
        for part in (start.targets, of_images, exchange.targets, memory.targets):
            for target in part():
                print(target.line(), flush=True)
                found.append(target)
        worlds = speeds_in_worlds(root)
    what = f"images of {own.data_root.name}" if own.data_root else "generated images"
    text = report(found, worlds, what)
    if own.write:
        write_between_marks(own.write, text)
    missed = sum(not target.is_met for target in found)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(found) - missed} of {len(found)} targets met, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
