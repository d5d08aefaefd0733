"""Does a change of the code change a result? Two checkouts train the same runs; bits are compared.

    python benchmarks/same_bits.py train CHECKOUT OUTPUT --data_root PATH/TO/caltech101
    python benchmarks/same_bits.py compare BEFORE AFTER

`train` runs `configs/digits.yaml` whole and two epochs of each step of
`configs/caltech101_64px_small.yaml`, in 1, 2 and 4 processes of one thread, with the code in
CHECKOUT. `compare` holds two such OUTPUT folders against each other: every parameter and buffer of
the last commits and of the saved models byte for byte, every value of the history exactly, under
the map of old to new keys in `history_keys.json`. Clocks and memory are left out.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch

WORLDS = (1, 2, 4)
FEW_EPOCHS = ("--pretrain.num_epochs", "2", "--cotrain.num_epochs", "2")
FEW_EPOCHS += ("--pretrain.warmup_epochs", "1", "--cotrain.warmup_epochs", "0")
CLOCKS = ("seconds", "seconds_by_rank", "peak_memory_bytes_by_rank")
KEYS = Path(__file__).with_name("history_keys.json")


def train_all(checkout: Path, output: Path, data_root: Path) -> None:
    """Every run that is not finished in `output`."""
    runs = {
        "digits": ["--config", "configs/digits.yaml"],
        "caltech101": [
            *("--config", "configs/caltech101_64px_small.yaml", "--data.root", str(data_root)),
            *("--device", "cpu", *FEW_EPOCHS),
        ],
    }
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    for name, settings in runs.items():
        for num_ranks in WORLDS:
            folder = output / f"{name}-{num_ranks}"
            if (folder / "models" / "best").is_dir():
                continue
            command = [sys.executable, "-m"]
            if num_ranks > 1:
                command += ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
                command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
                command += ["--main_process_port", "0", "--num_processes", str(num_ranks), "-m"]
            command += ["cotrain_dist", "train", *settings, "--output_dir", str(folder)]
            subprocess.run(command, check=True, env=environ, cwd=checkout)


def compare_all(before: Path, after: Path) -> int:
    """Print a line for each run; returns the exit code."""
    renamed = json.loads(KEYS.read_text())
    num_runs, num_different = 0, 0
    for folder in sorted(path for path in before.iterdir() if path.is_dir()):
        other = after / folder.name
        tensors, differences = compare_tensors(folder, other)
        old, new = history_of(folder, renamed), history_of(other, {})
        differences += [
            f"history line {number}: {key}: {a.get(key, '(none)')} / {b.get(key, '(none)')}"
            for number, (a, b) in enumerate(zip(old, new, strict=True), start=1)
            for key in sorted({*a, *b})
            if a.get(key) != b.get(key)
        ]
        num_runs += 1
        num_different += bool(differences)
        values = sum(map(len, old))
        verdict = "; ".join(differences[:5]) or "equal"
        print(f"{folder.name}: {tensors} tensors, {values} history values: {verdict}")
    return 1 if num_different or not num_runs else 0


def compare_tensors(before: Path, after: Path) -> tuple[int, list[str]]:
    """How many tensors were compared, and the names of those that differ."""
    num_compared, differences = 0, []
    for file in tensor_files(before):
        name = file.relative_to(before)
        old, new = (safetensors.torch.load_file(root / name) for root in (before, after))
        if old.keys() != new.keys():
            differences.append(f"{name}: other names")
            continue
        for key, value in old.items():
            num_compared += 1
            same_shape = value.shape == new[key].shape and value.dtype == new[key].dtype
            if not same_shape or value.numpy().tobytes() != new[key].numpy().tobytes():
                differences.append(f"{name}: {key}")
    return num_compared, differences


def tensor_files(run: Path) -> Iterator[Path]:
    """Saved models, and parameters, buffers and optimizers of the commits of both models."""
    files = [*run.glob("models/*/*.safetensors"), *run.glob("checkpoints/[ab]/*/*.safetensors")]
    assert files, f"{run} holds no model"
    yield from sorted(files)


def history_of(run: Path, renamed: dict[str, str]) -> list[dict[str, Any]]:
    """The lines of a run as flat keys, without clocks; `renamed` from old dotted keys to new."""
    lines = []
    for line in (run / "history.jsonl").read_text().splitlines():
        record = {key: value for key, value in json.loads(line).items() if key not in CLOCKS}
        lines.append({renamed.get(key, key): value for key, value in flatten(record, "")})
    return lines


def flatten(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and the values at their ends."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from flatten(part, f"{key}.{name}" if key else name)
    else:
        yield key, value


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("checkout", type=Path)
    train.add_argument("output", type=Path)
    train.add_argument("--data_root", type=Path, required=True)
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    own = parser.parse_args()
    if own.command == "compare":
        return compare_all(own.before, own.after)
    train_all(own.checkout.resolve(), own.output.resolve(), own.data_root.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
