"""What the parts of a study have measured, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from cotrain_dist.method.statistics import Interval, gap_closed, paired_interval
from cotrain_dist.store.records import (
    ROLE_NAMES,
    CotrainRecord,
    Fit,
    PretrainRecord,
    Record,
)
from cotrain_dist.study.arms import CEILING, VOTE

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
    num_samples_before: dict[str, int]
    """Images that a and b learned from in Step 1, each as often as it was seen."""
    num_samples: dict[str, int]
    """And in Step 2."""
    seconds_before: float
    """Of Step 1; models on ranks of their own train at one time, so the longer one counts."""
    seconds: float
    """Of Step 2."""
    saved: float | None
    """Accuracy on T of models/best; None where that is not known."""
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


def outcome_of(
    history: Sequence[Record],
    sources: Sequence[str] = (),
    notes: Mapping[str, Any] | None = None,
) -> Outcome:
    """The figures of a finished part. notes: what models/best says of its making."""
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
        num_samples_before={
            role: sum(r.fit.num_samples for r in before if r.role == role) for role in ROLE_NAMES
        },
        num_samples={
            role: sum(fit.num_samples for fit in _fits(records, role)) for role in ROLE_NAMES
        },
        seconds_before=_seconds_of_step_one(before, len(records[0].seconds_by_rank)),
        seconds=sum(record.seconds for record in records),
        saved=None if notes is None else curve[notes["role"]][notes["epoch"]],
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


def _seconds_of_step_one(records: Sequence[PretrainRecord], num_ranks: int) -> float:
    by_role = [
        sum(sum(record.seconds.values()) for record in records if record.role == role)
        for role in ROLE_NAMES
    ]
    # One process trains the models one after the other.
    return sum(by_role) if num_ranks == 1 else max(by_role)


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


Kind = Literal["ensemble", "best"]
"""Of an arm: the mean of both models' probabilities, or models/best."""


def gap(outcomes: Outcomes, arm: str, of: Kind) -> tuple[float, Interval | None] | None:
    """The share of the way from `vote` to `ceiling` that an arm has gone, over common seeds.

    (arm - vote) / (ceiling - vote), where vote and ceiling are ensembles: also a single model is
    held against the ensemble that costs no U. With the 95 % interval of a bootstrap over seeds, or
    None where vote and ceiling are not apart. None without a common seed, where models/best is not
    known, or where the ceiling is not above the vote.
    """
    seeds = common_seeds(outcomes, arm, VOTE, CEILING)
    values = [_value(outcomes[arm][seed], of) for seed in seeds]
    known = [value for value in values if value is not None]
    base, ceiling = (
        [outcomes[name][seed].last["ensemble"] for seed in seeds] for name in (VOTE, CEILING)
    )
    way = sum(ceiling) - sum(base)
    if not seeds or len(known) < len(seeds) or way <= 0.0:
        return None
    return (sum(known) - sum(base)) / way, gap_closed(known, base, ceiling)


def _value(outcome: Outcome, of: Kind) -> float | None:
    return outcome.last["ensemble"] if of == "ensemble" else outcome.saved


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
