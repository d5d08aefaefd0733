"""The report of `reproduce --labels_by`: report.md, results.json and a figure of the curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cotrain_dist.config import Config
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.statistics import Interval, gap_closed, mean_interval, paired_interval
from cotrain_dist.reporting.grid import Grid
from cotrain_dist.store import atomic
from cotrain_dist.study.arms import CEILING, VOTE
from cotrain_dist.study.figures import save_figure, use_files_only
from cotrain_dist.study.report import setting_of
from cotrain_dist.version import __version__

Curves = dict[int, dict[str, list[dict[str, Any]]]]
"""By seed and strategy: a point for each number of labels (`study/labels.py: Point`)."""

RANDOM = "random"

NO_SAMPLE = (
    "Chosen labels are no random sample of the images: accuracy is measured on T, which is drawn "
    "at random before anything is chosen.\n"
)


def write_labels_report(
    folder: Path,
    base: Config,
    strategies: Sequence[str],
    curves: Curves,
    accuracies: Mapping[str, Mapping[int, float]],
) -> list[Grid]:
    """Write the files; returns all tables. accuracies: of trained arms, 0..1 by arm and seed."""
    first = min(curves)
    setting = setting_of(
        base, len(load_split_table(folder / "labels" / f"seed-{first}.parquet").class_names)
    )
    grids = [curve_grid(strategies, curves, setting)]
    arms = _arms(strategies, curves, accuracies)
    if arms:
        grids.append(arm_grid(arms, f"labels by {strategies[-1]}, {setting}"))
    use_files_only()
    picture = save_figure(_draw(strategies, curves, setting), folder / "labels")
    parts = [grid.to_markdown() for grid in grids]
    text = "\n".join([f"# {setting}\n", NO_SAMPLE, *parts, f"![labels]({picture.name})\n"])
    atomic.write_text(folder / "report.md", text)
    results = {
        "cotrain_dist": __version__,
        "setting": setting,
        "settings": asdict(base),
        "seeds": sorted(curves),
        "labels_by": {name: _strategy_json(name, curves) for name in strategies},
        "ceiling": _interval_json(mean_interval(_votes(CEILING, -1, curves))),
        "arms": arms,
    }
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    atomic.write_text(folder / "results.json", text)
    return grids


def _votes(name: str, index: int, curves: Curves) -> list[float]:
    """Of each seed: accuracy of the vote, 0..1."""
    return [float(curves[seed][name][index]["vote"]) for seed in sorted(curves)]


def _nums(name: str, curves: Curves) -> list[int]:
    return [point["num_labels"] for point in curves[min(curves)][name]]


def _gap(values: Sequence[float], index: int, curves: Curves) -> Interval | None:
    if RANDOM not in curves[min(curves)]:
        return None
    return gap_closed(values, _votes(RANDOM, index, curves), _votes(CEILING, -1, curves))


def _strategy_json(name: str, curves: Curves) -> dict[str, Any]:
    """Of the largest number of labels, and the whole curve."""
    points = []
    for index, num in enumerate(_nums(name, curves)):
        votes = _votes(name, index, curves)
        points.append(
            {
                "num_labels": num,
                "vote": _interval_json(mean_interval(votes)),
                "gap_closed": _interval_json(_gap(votes, index, curves)),
                "num_classes": mean(curves[s][name][index]["num_classes"] for s in curves),
                "seconds": mean(curves[s][name][index]["seconds"] for s in curves),
            }
        )
    return points[-1] | {"curve": points}


def _interval_json(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    has_limits = interval.num_seeds > 1  # JSON knows no infinity
    return {
        "mean": interval.mean,
        "low": interval.low if has_limits else None,
        "high": interval.high if has_limits else None,
    }


def _arms(
    strategies: Sequence[str], curves: Curves, accuracies: Mapping[str, Mapping[int, float]]
) -> dict[str, Any]:
    """Of each arm: accuracy of its ensemble and the gap closed, with the labels of the last."""
    seeds = sorted(curves)
    found = {
        name: [own[s] for s in seeds] for name, own in accuracies.items() if set(own) >= set(seeds)
    }
    by_heads = VOTE not in found
    if by_heads:
        found[VOTE] = _votes(strategies[-1], -1, curves)
        found[CEILING] = _votes(CEILING, -1, curves)
        base = _votes(RANDOM, -1, curves) if RANDOM in curves[seeds[0]] else None
    else:
        base = found.pop("base", None) or (found[VOTE] if strategies[-1] == RANDOM else None)
    arms = {}
    for name, values in found.items():
        gap = None if base is None else gap_closed(values, base, found[CEILING])
        arms[name] = {
            "accuracy": _interval_json(mean_interval(values)),
            "gap_closed": _interval_json(gap),
        }
    return arms


def curve_grid(strategies: Sequence[str], curves: Curves, setting: str) -> Grid:
    """Mean and standard deviation over seeds, the gain over random labels, and the gap closed."""
    rows = []
    for name in strategies:
        for index, num in enumerate(_nums(name, curves)):
            votes = _votes(name, index, curves)
            gain = gap = ""
            if RANDOM in strategies and name != RANDOM:
                pairs = zip(votes, _votes(RANDOM, index, curves), strict=True)
                gain = _points(paired_interval([100 * (own - base) for own, base in pairs]))
                gap = _share(_gap(votes, index, curves))
            classes = mean(curves[s][name][index]["num_classes"] for s in curves)
            rows.append([name, str(num), _spread(votes), gain, gap, f"{classes:.1f}"])
    top = _votes(CEILING, -1, curves)
    rows.append([CEILING, str(_nums(CEILING, curves)[0]), _spread(top), "", "", ""])
    return Grid(
        f"Vote of both models on T in %, {setting}, {len(curves)} seed(s)",
        ("labels by", "labels", "vote", "gain over random", "gap closed", "classes with a label"),
        rows,
    )


def arm_grid(arms: Mapping[str, Any], setting: str) -> Grid:
    """Arms and their share of the gap; setting: with the strategy that has chosen their labels."""
    rows = []
    for name, own in arms.items():
        gap = own["gap_closed"]
        share = "" if gap is None else f"{gap['mean']:.2f} ({gap['low']:.2f} to {gap['high']:.2f})"
        rows.append([name, f"{100 * own['accuracy']['mean']:.1f}", share])
    return Grid(f"Arms, ensemble on T in %, {setting}", ("arm", "ensemble", "gap closed"), rows)


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def _points(interval: Interval) -> str:
    limits = f" ({interval.low:+.1f} to {interval.high:+.1f})" if interval.num_seeds > 1 else ""
    return f"{interval.mean:+.1f}{limits}"


def _share(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _draw(strategies: Sequence[str], curves: Curves, setting: str) -> Any:
    """Accuracy over the number of labels: a line per strategy, its band one standard deviation."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for name in strategies:
        nums = _nums(name, curves)
        values = [[100 * v for v in _votes(name, i, curves)] for i in range(len(nums))]
        middle = [mean(own) for own in values]
        (line,) = axis.plot(nums, middle, marker="o", label=name)
        if len(curves) > 1:
            spread = [stdev(own) for own in values]
            low = [m - s for m, s in zip(middle, spread, strict=True)]
            high = [m + s for m, s in zip(middle, spread, strict=True)]
            axis.fill_between(nums, low, high, color=line.get_color(), alpha=0.12)
    top = 100 * mean(_votes(CEILING, -1, curves))
    axis.axhline(top, color="gray", linestyle="--", label="ceiling: all labels")
    axis.set_xlabel("labels in all")
    axis.set_ylabel("accuracy of the vote on T in %")
    axis.set_title(setting, fontsize=9)
    axis.legend(fontsize=8)
    return figure
