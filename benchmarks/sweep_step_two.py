"""Rate and threshold of Step 2, chosen on V: four trials each for `none` and for `alternate`.

python benchmarks/sweep_step_two.py CONFIG OUTPUT_DIR [--KEY VALUE ...]

Pre-trains A and B once with a V of 10 % (seed 100, which no study uses), then tries the same number
of settings with `exchange: none` and with `alternate`, labels shared, and prints the mean of A and
B on V after the last epoch. T is never looked at. A part that has finished is not run again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
SEED = "100"
RATES = ("0.001", "0.0005")
THRESHOLDS = ("0.6", "0.9")
FURTHER_RATES = ("0.0002", "0.002")
DEFAULT_THRESHOLD = "0.8"


def train(config: str, run: Path, settings: list[str]) -> None:
    """One run on two ranks, unless it has finished; gone on with if it was begun."""
    state = run / "run.json"
    if state.exists() and json.loads(state.read_text()).get("finished"):
        return
    what = ["--resume", str(run)]
    if not state.exists():
        what = ["--config", config, "--output_dir", str(run), *settings]
    subprocess.run(
        [
            *(str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("-m", "cotrain_dist", "train", *what),
        ],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def on_validation(run: Path) -> float:
    """Mean of A and B on V in % after the last epoch."""
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])["validation"]
    return 50 * (last["a"]["top1"] + last["b"]["top1"])


def main(config: str, folder: Path, settings: list[str]) -> None:
    """Pre-train, try, print."""
    start = folder / "start"
    common = [*settings, "--data.validation_fraction", "0.1", "--seed", SEED]
    train(config, start, [*common, "--cotrain.num_epochs", "0"])
    print(f"before Step 2: {on_validation(start):.1f}", flush=True)
    common += ["--data.splits_from", str(start), "--pretrain.num_epochs", "0", "--labels", "shared"]
    for role in ("a", "b"):
        common += [f"--model_{role}.init_from", str(start / "models" / role)]
    best: dict[str, tuple[float, str]] = {}

    def attempt(exchange: str, rate: str, threshold: str) -> None:
        run = folder / f"{exchange}-{rate}-{threshold}"
        own = ["--exchange", exchange, "--cotrain.learning_rate", rate]
        train(config, run, [*common, *own, "--selection.threshold", threshold])
        top1 = on_validation(run)
        best[exchange] = max(best.get(exchange, (0.0, "")), (top1, rate))
        print(f"{exchange}, rate {rate}, threshold {threshold}: {top1:.1f}", flush=True)

    for rate in RATES:
        for exchange in ("none", "alternate"):
            attempt(exchange, rate, DEFAULT_THRESHOLD)
    for rate in FURTHER_RATES:
        attempt("none", rate, DEFAULT_THRESHOLD)
    for threshold in THRESHOLDS:
        attempt("alternate", best["alternate"][1], threshold)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
