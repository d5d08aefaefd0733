"""What the parts of a study have measured, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from cotrain_dist.method.statistics import Interval, paired_interval
from cotrain_dist.store.records import (
    ROLE_NAMES,
    CotrainRecord,
    Fit,
    PretrainRecord,
    Record,
)

MODELS = (*ROLE_NAMES, "ensemble")


@dataclass(frozen=True)
class Outcome:
    """One arm with one seed; accuracies on T in %."""

    curve: dict[str, list[float]]
    """Of a, b and ensemble after epochs 0, 1, .. of Step 2."""
    recall: dict[str, float]
    """Mean per-class recall after the last epoch, in %."""
    best_epoch: dict[str, int]
    """Of each model: chosen on V, or without one on T."""
    chosen_on: str
    num_steps_before: dict[str, int]
    """Optimizer steps of a and of b in Step 1; 0 where they begin pre-trained."""
    num_steps: dict[str, int]
    """Optimizer steps of a and of b in Step 2."""
    seconds: float
    """Of Step 2."""
    signs: dict[str, list[float | None]]
    """By epoch: num_selected_a, selected_accuracy_a, agreement_rate, calibration_error_a, ..."""
    pool: list[Mapping[str, Any] | None]
    """By epoch: what both models called U, against its true labels."""
    right_by_class: dict[str, list[list[int]]]
    """By role: images in R and right ones by the class they are given, [2][C] over all epochs."""
    sources: list[str]
    """Digests of the source that has trained it."""

    @property
    def last(self) -> dict[str, float]:
        """After the last epoch; `models` is the mean of a and b."""
        values = {name: self.curve[name][-1] for name in MODELS}
        return values | {"models": (values["a"] + values["b"]) / 2}

    @property
    def first(self) -> dict[str, float]:
        """Before Step 2."""
        values = {name: self.curve[name][0] for name in MODELS}
        return values | {"models": (values["a"] + values["b"]) / 2}

    @property
    def best(self) -> dict[str, float]:
        """Of each model at its best epoch."""
        return {name: self.curve[name][self.best_epoch[name]] for name in MODELS}


def outcome_of(history: Sequence[Record], sources: Sequence[str] = ()) -> Outcome:
    """The figures of a finished part."""
    before = [record for record in history if isinstance(record, PretrainRecord)]
    records = [record for record in history if isinstance(record, CotrainRecord)]
    curve = {name: [100 * r.on_test[name].top1 for r in records] for name in MODELS}
    judged = {name: [r.judged[name].top1 for r in records] for name in MODELS}
    last = records[-1].on_test
    return Outcome(
        curve=curve,
        recall={name: 100 * last[name].mean_class_recall for name in MODELS},
        # The earliest of equals.
        best_epoch={name: values.index(max(values)) for name, values in judged.items()},
        chosen_on="T" if records[0].validation is None else "V",
        num_steps_before={
            role: sum(r.fit.num_steps for r in before if r.role == role) for role in ROLE_NAMES
        },
        num_steps={role: sum(fit.num_steps for fit in _fits(records, role)) for role in ROLE_NAMES},
        seconds=sum(record.seconds for record in records),
        # Epoch 0 comes before any exchange.
        signs=_signs(records[1:]),
        pool=[record.pool for record in records[1:]],
        right_by_class={
            role: [
                _column_sums([r.roles[role].selected_class_histogram for r in records]),
                _column_sums([r.roles[role].selected_right_histogram for r in records]),
            ]
            for role in ROLE_NAMES
        },
        sources=list(sources),
    )


def _fits(records: Sequence[CotrainRecord], role: str) -> list[Fit]:
    fits = [record.roles[role].fit for record in records]
    return [fit for fit in fits if fit is not None]


def _signs(records: Sequence[CotrainRecord]) -> dict[str, list[float | None]]:
    signs: dict[str, list[float | None]] = {
        "agreement_rate": [record.agreement_rate for record in records]
    }
    for role in ROLE_NAMES:
        own = [record.roles[role] for record in records]
        signs[f"num_selected_{role}"] = [one.num_selected for one in own]
        signs[f"selected_accuracy_{role}"] = [one.selected_accuracy for one in own]
    for name in MODELS:
        signs[f"calibration_error_{name}"] = [
            record.on_test[name].calibration_error for record in records
        ]
    return signs


def _column_sums(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


Outcomes = Mapping[str, Mapping[int, Outcome]]
"""By arm and seed."""


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation; none for a single seed."""
    return mean(values), stdev(values) if len(values) > 1 else None


def common_seeds(outcomes: Outcomes, *arms: str) -> list[int]:
    """Seeds that all of the arms have finished, ascending."""
    return sorted(set.intersection(*(set(outcomes.get(arm, {})) for arm in arms)))


def gain(outcomes: Outcomes, arm: str, over: str) -> Interval | None:
    """What an arm's last epoch gains over another's, paired by seed; None without a common seed.

    In points, mean of A and B.
    """
    seeds = common_seeds(outcomes, arm, over)
    if not seeds:
        return None
    first, second = outcomes[arm], outcomes[over]
    # The mean of both models: the better one of the two would be chosen on T.
    return paired_interval([first[s].last["models"] - second[s].last["models"] for s in seeds])
