"""`train --time`: whether runs end in time, and what accuracy a budget buys.

    python benchmarks/time_budget.py CLASS_FOLDERS START_A START_B OUTPUT [--plot docs/time.png]
        [--minutes 1 1.5 2 3 4 5 6 8 10 15] [--test_fraction 0.4] [--num_per_class 5] [--whole]

One run per budget, in two ranks, as a user starts it: `accelerate launch ... train --time`, with
features that no run before has kept. The seconds are those from the start of the launcher to its
end. Heads on frozen features up to 224 pixels, as in configs/own_images.yaml; with --whole all
weights. A finished run is kept in OUTPUT and not run again. Prints a line for each budget, and
draws accuracy on T by budget.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
MINUTES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0)
WHOLE = ("--recipe", "synergy", "--train.norm", "frozen", "--pretrain.fit_head", "true")
WHOLE += ("--pretrain.num_epochs", "12", "--pretrain.learning_rate", "3e-4")
WHOLE += ("--cotrain.num_epochs", "2", "--cotrain.learning_rate", "3e-4")


def main() -> None:
    """Run what is missing, print and draw what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("images", "start_a", "start_b", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=list(MINUTES))
    parser.add_argument("--test_fraction", type=float, default=0.4)
    parser.add_argument("--num_per_class", type=int, default=5)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    found = [_found(given, minutes) for minutes in given.minutes]
    if given.plot:
        _draw(found, given.plot)


def _found(given: argparse.Namespace, minutes: float) -> dict[str, Any]:
    file = given.output / f"{minutes:g}.json"
    if not file.is_file():
        file.write_text(json.dumps(_run(given, minutes)))
    found: dict[str, Any] = json.loads(file.read_text())
    print(
        f"{minutes:g} min: ended after {found['seconds']:.0f} s, exit code {found['exit_code']}, "
        f"{found['image_size']} pixels, epochs {found['epochs']}, vote of both on T "
        f"{found['top1']:.1%}",
        flush=True,
    )
    return found


def _run(given: argparse.Namespace, minutes: float) -> dict[str, Any]:
    run, cache = given.output / f"run-{minutes:g}", given.output / "cache"
    for folder in (run, cache):
        shutil.rmtree(folder, ignore_errors=True)
    kind = WHOLE if given.whole else ("--config", str(ROOT / "configs" / "own_images.yaml"))
    words = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "-m", "cotrain_dist", "train", *kind),
        *("--data.root", given.images, "--data.image_size", given.image_size),
        *("--data.test_fraction", given.test_fraction),
        *("--data.labeled_per_class", given.num_per_class, "--device", "cpu"),
        *("--model_a.pretrained", given.start_a, "--model_b.pretrained", given.start_b),
        *("--data.feature_cache", cache, "--output_dir", run),
        *("--time", f"{60 * minutes:.0f}s"),
    ]
    started = time.monotonic()
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, words)], env=environ, stdout=subprocess.DEVNULL, check=False)
    seconds = time.monotonic() - started
    settings = yaml.safe_load((run / "config.yaml").read_text())
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["phase"] == "cotrain"][-1]
    return {
        "minutes": minutes,
        "seconds": seconds,
        "exit_code": done.returncode,
        "image_size": settings["data"]["image_size"] or settings["model_b"]["image_size"],
        "epochs": [settings[name]["num_epochs"] for name in ("pretrain", "cotrain")],
        "top1": last["test"]["ensemble"]["top1"],
    }


def _draw(found: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    minutes = [own["minutes"] for own in found]
    axes.plot(minutes, [100 * own["top1"] for own in found], "o-", label="given")
    used = [own["seconds"] / 60 for own in found]
    axes.plot(used, [100 * own["top1"] for own in found], "x", label="taken")
    for own in found:
        label = f"{own['image_size']} px"
        where = (own["minutes"], 100 * own["top1"])
        axes.annotate(label, where, (0, -14), textcoords="offset points", ha="center", fontsize=7)
    axes.set(xlabel="minutes", ylabel="vote of both on T, %")
    axes.legend()
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
