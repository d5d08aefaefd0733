"""What `train.exact_elastic` costs: seconds of training with and without it, side by side.

    python benchmarks/exact_elastic.py [REPEATS] [--model mobilenetv3_small_100] [--image_size 64]

One process of one thread trains both models on the embedded digits, with no shards, 4 and 12. The
ways take turns, so that a drift of the machine meets all of them. Prints medians and ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = (0, 4, 12)


def measure(shards: int, given: argparse.Namespace, folder: Path) -> float:
    """Seconds of the training steps of both models, the first epoch of each left out."""
    words = [
        *("--data.source", "digits", "--device", "cpu", "--data.image_size", given.image_size),
        *("--model_a.name", given.model, "--model_b.name", given.model),
        *("--train.batch_size", 64, "--train.exact_elastic", shards),
        *("--pretrain.num_epochs", 4, "--cotrain.num_epochs", 0, "--output_dir", folder),
    ]
    command = [sys.executable, "-m", "cotrain_dist", "train", *map(str, words)]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return sum(
        float(line["seconds"]["train"])
        for line in lines
        if line["phase"] == "pretrain" and line["epoch"] > 1
    )


def main() -> None:
    """Run all ways in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repeats", type=int, nargs="?", default=3)
    parser.add_argument("--model", default="mobilenetv3_small_100")
    parser.add_argument("--image_size", type=int, default=64)
    given = parser.parse_args()
    found: dict[int, list[float]] = {shards: [] for shards in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(given.repeats):
            for shards in WAYS:
                found[shards].append(measure(shards, given, Path(folder) / f"{repeat}-{shards}"))
    for shards, values in found.items():
        ratios = [own / plain for own, plain in zip(values, found[0], strict=True)]
        print(
            f"exact_elastic {shards}: median {statistics.median(values):.1f} s, "
            f"{statistics.median(ratios):.2f} times as long as without "
            f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        )


if __name__ == "__main__":
    main()
