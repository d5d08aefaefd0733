"""From 5,000 images to the first 50 to label, and from 200 labels to labels for the rest.

    python benchmarks/first_hour.py CLASS_FOLDERS START_A START_B [--num_images N]

Each step is a command of a new process, imports included, on an empty feature cache: `queue` in
one process, then `queue` for 200 images, whose labels are filled in, `train` in two processes and
`predict` of all images. Prints seconds; copies the images to a temporary folder.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
CONFIG = Path(__file__).parents[1] / "configs" / "own_images.yaml"
MARK = "--"


def copy_images(root: Path, target: Path, num_images: int) -> int:
    """Every k-th image of the class folders, in one heap; the class stands before MARK."""
    files = sorted(path for path in root.glob("*/*") if path.is_file())
    chosen = [files[i * len(files) // num_images] for i in range(min(num_images, len(files)))]
    target.mkdir()
    for file in chosen:
        shutil.copy(file, target / f"{file.parent.name}{MARK}{file.name}")
    return len(chosen)


def fill_in(table: Path) -> None:
    """The labels that a person would give."""
    with table.open(newline="") as file:
        rows = [[row["path"], row["path"].partition(MARK)[0]] for row in csv.DictReader(file)]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])


def timed(name: str, *words: object, launcher: bool = False) -> float:
    """Run a command; seconds."""
    command = [sys.executable, *(LAUNCH if launcher else []), "-m", "cotrain_dist"]
    started = time.monotonic()
    subprocess.run([*command, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    print(f"{name}: {seconds:.0f} s", flush=True)
    return seconds


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("starts", type=Path, nargs=2)
    parser.add_argument("--num_images", type=int, default=5000)
    own = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, table, run = folder / "images", folder / "labels.csv", folder / "run"
        print(f"{copy_images(own.root, images, own.num_images)} images", flush=True)
        words = ["--config", CONFIG, "--data.root", images, "--data.feature_cache", folder / "kept"]
        words += ["--model_a.pretrained", own.starts[0].absolute()]
        words += ["--model_b.pretrained", own.starts[1].absolute()]
        first = ["--size", 50, "--output", folder / "first.csv"]
        timed("first 50 images to label", "queue", *words, *first, launcher=True)
        timed("200 images to label", "queue", *words, "--size", 200, "--output", table)
        fill_in(table)
        more = ["--data.table", table, "--data.unlabeled", images, "--output_dir", run]
        seconds = timed("train", "train", *words, *more, launcher=True)
        output = ["--output", folder / "all.csv"]
        seconds += timed("predict", "predict", run, images, *output, launcher=True)
        print(f"from 200 labels to labels for the rest: {seconds:.0f} s")


if __name__ == "__main__":
    main()
