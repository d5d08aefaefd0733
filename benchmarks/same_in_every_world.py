"""Do features, lists and heads depend on the number of processes? Real images, every bit compared.

    python benchmarks/same_in_every_world.py CLASS_FOLDERS START_A START_B [--num_images N]

Settings of `configs/own_images.yaml`, with an exchange. In one process, and under `accelerate
launch` with 1, 2, 3 and 4, one thread each: `queue` lists 200 images, their labels are filled in,
and `train` fits heads to them and to R. Each world begins with an empty feature cache of its own.
Prints a verdict per line; exit code 1 on a difference. Copies the images to a temporary folder.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from first_hour import CONFIG, copy_images, fill_in
from same_bits import history_of

ROOT = Path(__file__).parents[1]
LAUNCH = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCH += ["--dynamo_backend", "no", "--main_process_port", "0", "--num_processes"]
WORLDS: dict[str, list[str]] = {"one process": []} | {
    f"accelerate launch, {number}": [*LAUNCH, str(number), *(["--multi_gpu"] if number > 1 else [])]
    for number in (1, 2, 3, 4)
}


def run_world(launch: list[str], words: list[Any], folder: Path) -> dict[str, Any]:
    """`queue` and `train` in one world; what must be the same in all, by name."""
    table, run, cache = folder / "labels.csv", folder / "run", folder / "cache"
    words = [*words, "--data.feature_cache", cache]
    call(launch, "queue", *words, "--size", 200, "--output", table)
    found: dict[str, Any] = {"list of 200 images": digest(table)}
    fill_in(table)
    images = words[words.index("--data.root") + 1]
    more = ["--data.table", table, "--data.unlabeled", images, "--exchange", "alternate"]
    more += ["--cotrain.num_epochs", 2, "--selection.threshold", 0.5, "--output_dir", run]
    call(launch, "train", *words, *more)
    history = history_of(run, {})
    return found | {
        "feature files": digests(cache, "*"),
        "splits": digests(run, "splits.parquet"),
        "models a, b and best": digests(run, "models/*/*.safetensors"),
        "history without clocks": history,
        # In the history as well; so that nobody compares empty selections.
        "images in R, by epoch": [
            line[key]
            for line in history
            for key in ("num_selected_a", "num_selected_b")
            if key in line
        ],
    }


def call(launch: list[str], *words: object) -> None:
    """A command, with one thread in each process."""
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, "-m", "cotrain_dist", *map(str, words)]
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """SHA-256 of files below a folder, by relative path; there is at least one."""
    files = sorted(file for file in folder.rglob(pattern) if file.is_file())
    assert files, f"{folder} holds no {pattern}"
    return {str(file.relative_to(folder)): digest(file) for file in files}


def size_of(value: Any) -> str:
    """What there was to compare."""
    return f"{len(value)} entries" if isinstance(value, dict | list) else value[:12]


def main() -> int:
    """Run and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("starts", type=Path, nargs=2)
    parser.add_argument("--num_images", type=int, default=1000)
    own = parser.parse_args()
    num_different, first = 0, None
    with tempfile.TemporaryDirectory() as name:
        images = Path(name, "images")
        print(f"{copy_images(own.root, images, own.num_images)} images", flush=True)
        words = ["--config", CONFIG, "--data.root", images, "--device", "cpu"]
        words += ["--model_a.pretrained", own.starts[0].absolute()]
        words += ["--model_b.pretrained", own.starts[1].absolute()]
        for number, (world, launch) in enumerate(WORLDS.items()):
            folder = Path(name, str(number))
            folder.mkdir()
            started = time.monotonic()
            found = run_world(launch, words, folder)
            print(f"{world} ({time.monotonic() - started:.0f} s)", flush=True)
            first = first or found
            for what, value in found.items():
                is_equal = value == first[what]
                num_different += not is_equal
                verdict = "equal" if is_equal else "DIFFERENT"
                print(f"  {what}: {size_of(value)}: {verdict}", flush=True)
        print(f"R: {first['images in R, by epoch'] if first else []}")
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main())
