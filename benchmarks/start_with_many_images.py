"""Time to the first steps, and memory, with 100,000 small images in a folder.

python benchmarks/start_with_many_images.py [NUM_IMAGES]

Makes the images in a temporary folder, trains two tiny models on 200 labels each on two ranks, and
prints the seconds from the command to the end of the first pre-training epoch (of 4 steps), and
the peak memory of each rank over the whole run, pass over U included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BIN = Path(sys.executable).parent
NUM_CLASSES = 100


def make_images(root: Path, num_images: int) -> None:
    """Images of 32 x 32 random pixels as PNG, in class folders."""
    rng = np.random.default_rng(0)
    for index in range(num_images):
        folder = root / f"class{index % NUM_CLASSES:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:06d}.png", compress_level=0)


def main(num_images: int) -> None:
    """Make, run, print."""
    with tempfile.TemporaryDirectory() as folder:
        root, run = Path(folder) / "images", Path(folder) / "run"
        make_images(root, num_images)
        command = [
            *(str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("-m", "cotrain_dist", "train", "--data.source", "imagefolder"),
            *("--data.root", str(root), "--data.image_size", "32", "--data.labeled_per_class", "2"),
            *("--data.test_fraction", "0.02", "--model_a.name", "test_resnet"),
            *("--model_b.name", "test_resnet", "--pretrain.num_epochs", "1"),
            *("--pretrain.warmup_epochs", "0", "--pretrain.eval_every_epochs", "9"),
            *("--cotrain.num_epochs", "1", "--cotrain.warmup_epochs", "0"),
            *("--output_dir", str(run)),
        ]
        started = time.monotonic()
        process = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
        )
        commits = run / "checkpoints" / "a"
        while process.poll() is None and not list(commits.glob("pretrain-*[0-9]")):
            time.sleep(0.05)
        first = time.monotonic() - started
        if process.wait(timeout=1800):
            sys.exit("the training failed")
        whole = time.monotonic() - started
        last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
        memory = [f"{num / 2**20:.0f} MiB" for num in last["peak_memory_bytes_by_rank"]]
        print(f"{num_images} images: first epoch done after {first:.1f} s, all after {whole:.0f} s")
        print(f"peak memory of the ranks: {', '.join(memory)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
