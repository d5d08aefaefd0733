"""Draw a run's accuracy on T by epoch: python benchmarks/plot_history.py RUN OUT.png TITLE."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(run: Path, target: Path, title: str) -> None:
    """One figure: top-1 of A, B and ensemble above, size and accuracy of R below."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["phase"] == "cotrain"]
    numbers = [line["epoch"] for line in epochs]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True)
    for name, label in (("a", "A"), ("b", "B"), ("ensemble", "A and B together")):
        top.plot(numbers, [100 * e["test"][name]["top1"] for e in epochs], marker="o", label=label)
    top.set_ylabel("accuracy on T in %")
    top.set_title(title)
    top.legend()
    for name, color in (("a", "tab:blue"), ("b", "tab:orange")):
        later = epochs[1:]
        bottom.bar(
            [e["epoch"] + (-0.2 if name == "a" else 0.2) for e in later],
            [e[f"num_selected_{name}"] for e in later],
            width=0.4,
            color=color,
            alpha=0.4,
            label=f"images in R_{name.upper()}",
        )
        right = [(e[f"selected_accuracy_{name}"] or 0) * e[f"num_selected_{name}"] for e in later]
        bottom.plot(
            [e["epoch"] + (-0.2 if name == "a" else 0.2) for e in later],
            right,
            "_",
            color=color,
            markersize=14,
            label="of them labeled right",
        )
    bottom.set_xlabel("epoch of Step 2")
    bottom.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
