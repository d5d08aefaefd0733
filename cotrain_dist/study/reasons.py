"""Why an exchange teaches what it teaches: how right R is, and the rest of U.

Three tables of one arm, over all its seeds and both models: by epoch, by confidence and by class.
What needs true labels is a dash where U has none.
"""

from collections.abc import Iterator, Sequence
from statistics import mean

from cotrain_dist.method.metrics import NUM_CONFIDENCE_BINS
from cotrain_dist.reporting.grid import Grid
from cotrain_dist.study.results import Outcome, Outcomes

NUM_CLASSES_SHOWN = 10

Part = dict[str, list[int]]
"""What one model calls U where both agree, or where they differ; see `describe_pool`."""


def right_by_epoch(arm: str, outcomes: Outcomes, setting: str) -> Grid:
    """R over the epochs, beside what the models call U where they agree and where they differ."""
    all_seeds = list(outcomes.get(arm, {}).values())
    rows = []
    for index in range(max((len(o.pool) for o in all_seeds), default=0)):
        # Seeds may have trained different numbers of epochs.
        found = [outcome for outcome in all_seeds if index < len(outcome.pool)]
        sizes, fractions = _selected_in(found, index)
        agreed = [part for o in found for part in _parts(o, "agree", index)]
        differing = [part for o in found for part in _parts(o, "differ", index)]
        rates = [o.signs["agreement_rate"][index] for o in found]
        known = [rate for rate in rates if rate is not None]
        rows.append(
            [
                str(index + 1),
                f"{mean(sizes):.0f}",
                f"{_weighted(fractions):.0%}" if fractions else "-",
                f"{mean(known):.0%}" if known else "-",
                _fraction_right(agreed),
                _fraction_right(differing),
            ]
        )
    return Grid(
        f"{arm}: labels given to U by epoch, a model, {setting}",
        ("epoch", "images in R", "right", "agreement on U", "agreed: right", "differing: right"),
        rows,
    )


def right_by_confidence(arm: str, outcomes: Outcomes, setting: str) -> Grid:
    """Accuracy of what A and B call U, by confidence, where they agree and where they differ."""
    found = list(outcomes.get(arm, {}).values())
    rows = []
    for tenth in reversed(range(NUM_CONFIDENCE_BINS)):
        row = [f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"]
        for name in ("agree", "differ"):
            parts = _parts_of_all(found, name)
            images = sum(part["num_images"][tenth] for part in parts)
            right = sum(part["num_right"][tenth] for part in parts)
            row += [f"{images / max(len(parts), 1):.0f}", _fraction(right, images)]
        rows.append(row)
    return Grid(
        f"{arm}: labels given to U by confidence, a model and epoch, {setting}",
        ("confidence", "agreed: images", "agreed: right", "differing: images", "differing: right"),
        rows,
    )


def right_by_class(arm: str, outcomes: Outcomes, class_names: Sequence[str], setting: str) -> Grid:
    """The classes most often in R, and how right a call of that class is, in R and in all of U."""
    found = list(outcomes.get(arm, {}).values())
    counted = [counts for o in found for counts in o.right_by_class.values()]
    images = _sums([counts[0] for counts in counted], len(class_names))
    right = _sums([counts[1] for counts in counted], len(class_names))
    order = sorted(range(len(class_names)), key=lambda i: -images[i])[:NUM_CLASSES_SHOWN]
    is_known = any(pool is not None for o in found for pool in o.pool)
    rows = []
    for i in (i for i in order if images[i]):
        row = [class_names[i], f"{images[i] / sum(images):.1%}"]
        row.append(_fraction(right[i], images[i]) if is_known else "-")
        for name in ("agree", "differ"):
            parts = _parts_of_all(found, name)
            calls = sum(part["num_images_by_class"][i] for part in parts)
            row.append(_fraction(sum(part["num_right_by_class"][i] for part in parts), calls))
        rows.append(row)
    return Grid(
        f"{arm}: the {len(rows)} classes most often called in R, all epochs, {setting}",
        ("called", "fraction of R", "in R: right", "agreed: right", "differing: right"),
        rows,
    )


def _selected_in(
    found: Sequence[Outcome], index: int
) -> tuple[list[float], list[tuple[float, float]]]:
    """Images in R in one epoch by seed and model; where known, that and the fraction right."""
    sizes, fractions = [], []
    for outcome in found:
        for role in "ab":
            size = outcome.signs[f"num_selected_{role}"][index] or 0
            fraction = outcome.signs[f"selected_accuracy_{role}"][index]
            sizes.append(size)
            if fraction is not None:
                fractions.append((size, fraction))
    return sizes, fractions


def _weighted(fractions: Sequence[tuple[float, float]]) -> float:
    # By size, or an R of three images would count like one of three hundred. An R of none has no
    # fraction, so the sum below is not 0.
    return sum(size * fraction for size, fraction in fractions) / sum(size for size, _ in fractions)


def _parts(outcome: Outcome, name: str, index: int) -> Iterator[Part]:
    pool = outcome.pool[index]
    if pool is not None:
        yield from (pool[f"{name}_{role}"] for role in "ab")


def _parts_of_all(found: Sequence[Outcome], name: str) -> list[Part]:
    return [p for o in found for index in range(len(o.pool)) for p in _parts(o, name, index)]


def _fraction_right(parts: Sequence[Part]) -> str:
    images = sum(sum(part["num_images"]) for part in parts)
    return _fraction(sum(sum(part["num_right"]) for part in parts), images)


def _fraction(right: float, images: float) -> str:
    return f"{right / images:.0%}" if images else "-"


def _sums(rows: Sequence[Sequence[int]], width: int) -> list[int]:
    return [sum(row[i] for row in rows) for i in range(width)]
