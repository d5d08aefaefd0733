"""From a folder without a label to labels with a promise, a script in the place of the person.

    python benchmarks/path_from_no_label.py CLASS_FOLDERS START_A START_B OUTPUT [--seeds 0 1 2]

The script knows the classes and answers by them, every twentieth time wrongly. 40 % of the images
are set aside, and no command sees them but the last `predict`. Each step is a command of its own:
`queue` for 30 images, `train`, `queue RUN` for 30 more, `train --recycle`, 60 more and once again,
an audit of `--audited` images, and `labels` with each promise. Prints the accuracy of the vote of
both models on what was set aside, and what the promised labels are truly worth. OUTPUT keeps the
features and, for each seed, a line of results.jsonl; a seed that stands there is not run again.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

CONFIG = Path(__file__).parents[1] / "configs" / "own_images.yaml"
SIZES = (30, 30, 60)
"""Images asked for in each round."""

ASIDE = 0.4
WRONG_EVERY = 20
PRECISIONS = (0.7, 0.8, 0.9)


class Person:
    """Answers by truth, every twentieth time wrongly."""

    def __init__(self, truth: Mapping[str, str]) -> None:
        self._truth, self._classes = truth, sorted(set(truth.values()))
        self._num = 0

    def fill_in(self, table: Path) -> None:
        """All labels of a table."""
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            self._num += 1
            place = self._classes.index(self._truth[row["path"]])
            place += self._num % WRONG_EVERY == 0
            row["label"] = self._classes[place % len(self._classes)]
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "label"])
            writer.writeheader()
            writer.writerows(rows)


def heap(root: Path, pool: Path, aside: Path, seed: int) -> dict[str, str]:
    """Links to all images in two folders without classes; the true class by name."""
    files = sorted(path for path in root.glob("*/*") if path.is_file())
    random.Random(seed).shuffle(files)
    num_aside = int(ASIDE * len(files))
    truth = {}
    for place, file in enumerate(files):
        folder = aside if place < num_aside else pool
        name = f"{place:06d}{file.suffix}"
        (folder / name).hardlink_to(file)
        truth[name] = file.parent.name
    return truth


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """A command of the program; its output."""
    own = [sys.executable, "-m", "cotrain_dist", *map(str, words)]
    return subprocess.run(own, capture_output=True, text=True, check=False)


def must(*words: object) -> None:
    """A command that has to end well."""
    done = command(*words)
    if done.returncode:
        raise SystemExit(f"{words[0]} ended with {done.returncode}: {done.stderr}")


def share_right(table: Path, truth: Mapping[str, str]) -> float:
    """Of the rows of a table of labels."""
    with table.open(newline="") as file:
        rows = [(Path(row["path"]).name, row["label"]) for row in csv.DictReader(file)]
    return mean(truth[name] == label for name, label in rows) if rows else 1.0


def walk(own: argparse.Namespace, seed: int, folder: Path) -> dict[str, object]:
    """The whole path with one draw of what is set aside."""
    pool, aside = folder / "pool", folder / "aside"
    pool.mkdir()
    aside.mkdir()
    truth = heap(own.root, pool, aside, seed)
    person = Person(truth)
    starts = ["--model_a.pretrained", own.starts[0], "--model_b.pretrained", own.starts[1]]
    kept = ["--data.feature_cache", own.output / "features"]
    base = ["--config", CONFIG, "--data.root", pool, "--seed", seed, *starts, *kept]
    line: dict[str, object] = {"seed": seed, "images": len(truth)}
    run = None
    for number, size in enumerate(SIZES):
        table, last = folder / f"labels-{number}.csv", run
        run = folder / f"run-{number}"
        if last is None:
            must("queue", *base, "--size", size, "--output", table)
            person.fill_in(table)
            more = ["--data.table", table, "--data.unlabeled", pool, "--output_dir", run]
            must("train", *base, *more)
        else:
            must("queue", last, "--size", size, "--output", table)
            person.fill_in(table)
            must("train", "--recycle", last, "--extra-labels", table, "--output_dir", run)
        predicted = folder / f"predicted-{number}.csv"
        must("predict", run, aside, "--output", predicted)
        line[f"after {sum(SIZES[: number + 1])}"] = share_right(predicted, truth)
    audit = folder / "audit.csv"
    must("queue", run, "--audit", own.audited, "--output", audit)
    person.fill_in(audit)
    whole = folder / "whole.csv"
    must("labels", run, "--output", whole)
    line["all of U"] = share_right(whole, truth)
    for precision in PRECISIONS:
        output = folder / f"kept-{precision}.csv"
        promise = ["--audit", audit, "--min_precision", precision]
        done = command("labels", run, "--output", output, *promise)
        found = None
        if done.returncode == 0:
            num = len(output.read_text().splitlines()) - 1
            share = num / (len(whole.read_text().splitlines()) - 1)
            found = {"kept": share, "right": share_right(output, truth)}
        line[f"promise {precision}"] = found
    return line


def main() -> None:
    """Walk the path for each seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("starts", type=Path, nargs=2)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--audited", type=int, default=150)
    own = parser.parse_args()
    own.starts = [start.absolute() for start in own.starts]
    own.output.mkdir(parents=True, exist_ok=True)
    results = own.output / "results.jsonl"
    lines = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    )
    for seed in own.seeds:
        if seed in (line["seed"] for line in lines):
            continue
        with tempfile.TemporaryDirectory(dir=own.output) as name:
            lines.append(walk(own, seed, Path(name)))
        with results.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(lines[-1], flush=True)
    for key in [key for key in lines[0] if key.startswith("after") or key == "all of U"]:
        values = [100.0 * line[key] for line in lines]
        spread = stdev(values) if len(values) > 1 else 0.0
        print(f"{key}: {mean(values):.1f} ± {spread:.1f} % right")
    for precision in PRECISIONS:
        given = [line[f"promise {precision}"] for line in lines if line[f"promise {precision}"]]
        told = f"promise {precision}: given in {len(given)} of {len(lines)}"
        if given:
            kept, right = (mean(one[key] for one in given) for key in ("kept", "right"))
            broken = sum(one["right"] < precision for one in given)
            told += f", kept {kept:.1%} of U, {right:.1%} of them right, broken {broken} times"
        print(told)


if __name__ == "__main__":
    main()
