"""Outcomes as figures, PNG and SVG: the paper's Figures 2 to 4 and what lies behind them."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cotrain_dist.method.calibration import Trial, fitted_accuracy
from cotrain_dist.method.metrics import NUM_CONFIDENCE_BINS
from cotrain_dist.study.arms import ARMS
from cotrain_dist.study.published import paper_tables
from cotrain_dist.study.results import Outcome, Outcomes

COLORS = {"a": "tab:blue", "b": "tab:orange", "ensemble": "tab:green"}
FIGURES = {"2": "figure-2", "3": "figure-3", "4": "figure-4"}
DOTS_PER_INCH = 110
NUM_POINTS = 100
"""Points of a fitted curve."""

MIN_IMAGES = 20
"""Fewer make no point of a curve of accuracy."""


def draw_all(outcomes: Outcomes, setting: str, folder: Path) -> list[Path]:
    """Draw what there is to draw; returns the PNG files."""
    use_files_only()
    folder.mkdir(exist_ok=True)
    drawn = [
        save_figure(_curves_beside_paper(number, outcomes, setting), folder / name)
        for number, name in FIGURES.items()
        if any(arm.table == number and outcomes.get(arm.name) for arm in ARMS)
    ]
    exchanging = [a.name for a in ARMS if a.decided["exchange"] != "none" and outcomes.get(a.name)]
    if exchanging:
        drawn.append(save_figure(_signs(exchanging, outcomes, setting), folder / "exchange"))
        drawn.append(
            save_figure(_by_confidence(exchanging, outcomes, setting), folder / "confidence")
        )
    return drawn


def use_files_only() -> None:
    """Draw into files: a batch job has no display."""
    import matplotlib as mpl

    mpl.use("Agg")


def save_figure(figure: Any, path: Path) -> Path:
    """Write PNG and SVG; returns the PNG."""
    import matplotlib.pyplot as plt

    figure.savefig(path.with_suffix(".svg"), bbox_inches="tight")
    figure.savefig(path.with_suffix(".png"), dpi=DOTS_PER_INCH, bbox_inches="tight")
    # pyplot holds every figure until it is closed.
    plt.close(figure)
    return path.with_suffix(".png")


def _panels(num_panels: int, *, sharey: bool = False) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    num_columns = 2 if num_panels == 4 else min(num_panels, 3)
    num_rows = math.ceil(num_panels / num_columns)
    figure, axes = plt.subplots(
        num_rows,
        num_columns,
        figsize=(4.6 * num_columns, 3.5 * num_rows),
        squeeze=False,
        sharey=sharey,
        layout="constrained",
    )
    panels = list(axes.flat)
    for panel in panels[num_panels:]:
        panel.remove()
    return figure, panels[:num_panels]


def _label(panel: Any, title: str, along: str, up: str) -> None:
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(along)
    panel.set_ylabel(up)
    panel.grid(alpha=0.3)
    if along.startswith("epoch"):
        panel.xaxis.get_major_locator().set_params(integer=True)


def _curves_beside_paper(number: str, outcomes: Outcomes, setting: str) -> Any:
    """A panel per reading: A, B and the ensemble over epochs, the paper's curves thin."""
    paper = paper_tables()[number]
    arms = [arm for arm in ARMS if arm.table == number and outcomes.get(arm.name)]
    figure, panels = _panels(len(arms), sharey=True)
    for arm, panel in zip(arms, panels, strict=True):
        for role, values in (("a", paper.a), ("b", paper.b)):
            label = f"published {role.upper()}"
            panel.plot(paper.epochs, values, color=COLORS[role], lw=0.8, ls=":", label=label)
        found = list(outcomes[arm.name].values())
        for name, color in COLORS.items():
            _line(panel, [o.curve[name] for o in found], 0, color, name)
        seeds = f"{len(found)} seed{'s' if len(found) > 1 else ''}"
        _label(panel, f"{arm.title} ({seeds})", "epoch of Step 2", "accuracy on T, %")
    panels[0].legend(fontsize=7)
    figure.suptitle(f"{paper.name}, {paper.title}: {setting}", fontsize=10)
    return figure


def _line(panel: Any, curves: Sequence[Sequence[float]], first: int, color: str, name: str) -> None:
    """The mean over seeds, and a band of one standard deviation."""
    # Arms at equal steps may have other numbers of epochs in other seeds: the mean ends with the
    # shortest.
    columns = list(zip(*curves, strict=False))
    epochs = list(range(first, first + len(columns)))
    middle = [mean(column) for column in columns]
    panel.plot(epochs, middle, color=color, label=name if len(name) > 1 else name.upper())
    if len(curves) > 1:
        band = [stdev(column) for column in columns]
        low = [m - s for m, s in zip(middle, band, strict=True)]
        high = [m + s for m, s in zip(middle, band, strict=True)]
        panel.fill_between(epochs, low, high, color=color, alpha=0.15, lw=0)


SIGNS = (
    ("images in R", ("num_selected_a", "num_selected_b"), 1.0),
    ("R labeled right, %", ("selected_accuracy_a", "selected_accuracy_b"), 100.0),
    ("A and B agree on U, %", ("agreement_rate",), 100.0),
    ("calibration error on T, %", ("calibration_error_a", "calibration_error_b"), 100.0),
)


def _signs(arms: Sequence[str], outcomes: Outcomes, setting: str) -> Any:
    """What the exchange of every arm looks like over the epochs, mean over seeds."""
    figure, panels = _panels(len(SIGNS))
    for (title, keys, scale), panel in zip(SIGNS, panels, strict=True):
        for number, arm in enumerate(arms):
            for key, style in zip(keys, ("-", "--"), strict=False):
                curve = _mean_by_epoch(list(outcomes[arm].values()), key)
                values = [math.nan if value is None else scale * value for value in curve]
                label = arm if style == "-" else None
                panel.plot(
                    range(1, len(values) + 1), values, style, color=f"C{number}", label=label
                )
        _label(panel, title, "epoch of Step 2", "")
    panels[0].legend(fontsize=7)
    figure.suptitle(f"The exchange (A solid, B dashed): {setting}", fontsize=10)
    return figure


def _mean_by_epoch(found: Sequence[Outcome], key: str) -> list[float | None]:
    curves = [outcome.signs[key] for outcome in found]
    means = []
    for column in zip(*curves, strict=False):
        known = [value for value in column if value is not None]
        means.append(mean(known) if known else None)
    return means


def _by_confidence(arms: Sequence[str], outcomes: Outcomes, setting: str) -> Any:
    """Accuracy of what a model calls U by its confidence, in agreement and in disagreement."""
    figure, panels = _panels(len(arms))
    for arm, panel in zip(arms, panels, strict=True):
        pools = [p for o in outcomes[arm].values() for p in o.pool if p is not None]
        for name, style in (("agree", "-"), ("differ", "--")):
            parts = [pool[f"{name}_{role}"] for pool in pools for role in "ab"]
            xs, ys = [], []
            for tenth in range(NUM_CONFIDENCE_BINS):
                images = sum(part["num_images"][tenth] for part in parts)
                if images >= MIN_IMAGES:
                    xs.append((tenth + 0.5) / NUM_CONFIDENCE_BINS)
                    ys.append(100 * sum(part["num_right"][tenth] for part in parts) / images)
            panel.plot(xs, ys, style, marker="o", ms=3, label=f"A and B {name}")
        panel.plot([0, 1], [0, 100], color="gray", lw=0.6)
        _label(panel, arm, "confidence", "right, %")
    panels[0].legend(fontsize=7)
    figure.suptitle(f"Labels given to U, all epochs: {setting}", fontsize=10)
    return figure


def draw_curve(trials: Sequence[Trial], target: float, title: str, folder: Path) -> None:
    """calibration.png and .svg: accuracy over the labeled fraction, a fitted curve, the target."""
    use_files_only()
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    fractions = [trial.fraction for trial in trials]
    panel.errorbar(
        fractions,
        [100 * trial.mean for trial in trials],
        yerr=[100 * trial.deviation for trial in trials],
        fmt="o",
        capsize=3,
        label="trials: mean and deviation of A and B",
    )
    if len(fractions) > 1:  # through one point no curve is fitted
        low, high = math.log(min(fractions) / 1.2), math.log(max(fractions) * 1.2)
        points = [math.exp(low + (high - low) * i / NUM_POINTS) for i in range(NUM_POINTS + 1)]
        fitted = [100 * fitted_accuracy(trials, fraction) for fraction in points]
        panel.plot(points, fitted, lw=1, label="fitted curve")
    panel.axhline(100 * target, color="gray", ls="--", lw=0.8, label="target")
    panel.set_xscale("log")
    panel.set_xticks(fractions, [f"{100 * fraction:.3g}" for fraction in fractions])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("fraction of each class labeled for each model, %")
    panel.set_ylabel("accuracy on T, %")
    panel.set_title(title, fontsize=9)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)
    save_figure(figure, folder / "calibration")
