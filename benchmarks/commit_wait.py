"""How long training waits for its commits: within an epoch, and at an epoch's end.

    python benchmarks/commit_wait.py [--models mobilenetv3_small_100 resnet50] [--every_steps 3]

One process of one thread trains two models of a kind on the embedded digits, two epochs each, and
commits after every few steps. Prints the bytes of a commit, medians of the waits, and the share of
the training time that they would be: of one commit in `checkpoint.every_minutes` (10), and how long
an epoch must last so that the commit at its end is 2 % of it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAITING = 0.02
"""The largest share of the training time that is to be waited."""

EVERY_SECONDS = 600.0
"""`checkpoint.every_minutes`, by default."""

WAITS = ("within an epoch", "at an epoch's end")


class Waits:
    """Seconds of each call of some functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, owner: Any, function: str, name: str) -> None:
        """Measure each call of `owner.function` from now on."""
        inner: Callable[..., Any] = getattr(owner, function)

        def called(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = inner(*args, **options)
            self.seconds.setdefault(name, []).append(time.perf_counter() - started)
            return result

        setattr(owner, function, called)


def measure(model: str, every_steps: int, waits: Waits, folder: Path) -> int:
    """Train, and return the bytes of a commit of one model."""
    from cotrain_dist.cli.main import main

    words = [
        *("--data.source", "digits", "--device", "cpu", "--data.image_size", 64),
        *("--model_a.name", model, "--model_b.name", model, "--train.batch_size", 32),
        *("--data.labeled_per_class", 30, "--pretrain.num_epochs", 2, "--cotrain.num_epochs", 0),
        *("--checkpoint.every_steps", every_steps, "--checkpoint.every_minutes", "null"),
        *("--data.test_per_class", 2, "--pretrain.eval_every_epochs", 9, "--output_dir", folder),
    ]
    waits.seconds.clear()
    if main(["train", *map(str, words)]):
        raise SystemExit("the training has failed")
    kept = sorted((folder / "checkpoints" / "a").iterdir())[-1]
    return sum(file.stat().st_size for file in kept.iterdir())


def main() -> None:
    """Measure each model and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mobilenetv3_small_100", "resnet50"])
    parser.add_argument("--every_steps", type=int, default=3)
    given = parser.parse_args()
    from cotrain_dist.training import pretrain, steps
    from cotrain_dist.training.within import Within

    waits = Waits()
    waits.time(steps, "train_step", "step")
    waits.time(Within, "_commit", WAITS[0])
    waits.time(pretrain, "commit_pretrain", WAITS[1])
    print("| model | MB | a step, s | waits within an epoch, s | share, one in 10 minutes | "
          "waits at an epoch's end, s | 2 % of an epoch of |")  # fmt: skip
    print("|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            num_bytes = measure(model, given.every_steps, waits, Path(folder) / model)
            step, within, end = (
                statistics.median(waits.seconds[name]) for name in ("step", *WAITS)
            )
            most_within, most_at_end = map(max, (waits.seconds[name] for name in WAITS))
            print(
                f"| {model} | {num_bytes / 1e6:.0f} | {step:.2f} | {within:.2f} "
                f"(most {most_within:.2f}) | "
                f"{100 * within / EVERY_SECONDS:.2f} % | {end:.2f} "
                f"(most {most_at_end:.2f}) | "
                f"{end / WAITING:.0f} s |"
            )


if __name__ == "__main__":
    main()
