"""The lines of history.jsonl as typed records (docs/run-directory.md names every key).

The file's keys are flat, with `_a` and `_b` for the models, so that a line reads well in any tool;
here they are fields. Keys that this version does not know are kept in `further`, and written again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cotrain_dist.method.metrics import Accuracy

ROLE_NAMES = ("a", "b")

Figures = Mapping[str, Accuracy]
"""Accuracy of a, b and ensemble on one split."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What training a model for an epoch came to."""

    loss: float
    """Mean over the epoch's images, as trained (with label smoothing); NaN where the weights have
    become so, which the losses before the last update do not show."""
    learning_rate: float
    """Of the last step."""
    num_steps: int
    num_samples: int
    num_skipped_steps: int = 0
    """Steps that were left out: with fp16 since a gradient was too large for the format, with
    `train.on_nan: skip_step` since one was not finite."""
    used_fraction: float | None = None
    """With consistency: of its unlabeled images, those that a teacher was sure enough of."""

    def to_json(self) -> dict[str, Any]:
        """The keys of a line; without consistency it has no `used_fraction`."""
        values = asdict(self)
        if self.used_fraction is None:
            del values["used_fraction"]
        return values


@dataclass(frozen=True, kw_only=True)
class PretrainRecord:
    """One model's epoch of Step 1."""

    role: str
    epoch: int
    fit: Fit
    train_accuracy: float | None
    """Top-1 on its own labels without augmentation; None where not measured."""
    test: Accuracy | None
    """On T; None where not measured."""
    seconds: Mapping[str, float]
    """By phase."""
    validation: Accuracy | None = None
    """On V; None where not measured."""
    further: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The line's keys."""
        validation = {} if self.validation is None else {"validation": asdict(self.validation)}
        return {
            "phase": "pretrain",
            "role": self.role,
            "epoch": self.epoch,
            **self.fit.to_json(),
            "train_accuracy": self.train_accuracy,
            "test": None if self.test is None else asdict(self.test),
            **validation,
            "seconds": dict(self.seconds),
            **self.further,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "PretrainRecord":
        """Read back what `to_json` gave; raises KeyError or TypeError for anything else."""
        rest = dict(line)
        del rest["phase"]
        test, validation = rest.pop("test"), rest.pop("validation", None)
        return cls(
            role=rest.pop("role"),
            epoch=rest.pop("epoch"),
            fit=Fit(**{name: rest.pop(name) for name in Fit.__dataclass_fields__ if name in rest}),
            train_accuracy=rest.pop("train_accuracy"),
            test=None if test is None else Accuracy(**test),
            validation=None if validation is None else Accuracy(**validation),
            seconds=rest.pop("seconds"),
            further=rest,
        )


@dataclass(frozen=True, kw_only=True)
class RoleRecord:
    """What one model selected, was taught and made of it, in one epoch of Step 2."""

    teacher: str | None
    """Whose R it learned; None for none."""
    num_selected: int
    """Images in its R."""
    selected_accuracy: float | None
    """Fraction of its R that is labeled right; None where that is unknown."""
    selected_class_histogram: list[int]
    """Images of its R by class id."""
    selected_right_histogram: list[int]
    """Those of them that are labeled right, where U's labels are known."""
    fit: Fit | None
    """None before the first epoch."""
    own_accuracy: float | None = None
    """Top-1 on its own labels, some of them; None where there is a V, or in earlier versions."""


# The keys are documented, and other tools read them: a field may be renamed, its key may not.
_KEYS_OF_ROLE = {
    "teacher": "teacher_of_{}",
    "num_selected": "num_selected_{}",
    "selected_accuracy": "selected_accuracy_{}",
    "selected_class_histogram": "selected_class_histogram_{}",
    "selected_right_histogram": "selected_right_histogram_{}",
}
_OWN_ACCURACY = "own_accuracy_{}"


@dataclass(frozen=True, kw_only=True)
class CotrainRecord:
    """One epoch of Step 2; epoch 0 is its start."""

    epoch: int
    exchange: str | None
    agreement_rate: float | None
    """Fraction of U on which A and B name one class."""
    num_equal_codes: int | None
    """Images of U on which a model's code equals the threshold's: neither sure nor unsure."""
    never_selected_fraction: float
    """Fraction of U in no R so far."""
    pool: Mapping[str, Mapping[str, list[int]]] | None
    """What both models call U, against its true labels (`method.metrics.describe_pool`)."""
    roles: Mapping[str, RoleRecord]
    """By `a` and `b`."""
    test: Figures | None
    """None without a split T."""
    validation: Figures | None
    """None without a split V."""
    seconds: float
    """Of the whole epoch."""
    seconds_by_rank: list[Mapping[str, float]]
    """By phase."""
    peak_memory_bytes_by_rank: list[int]
    """The most that each process has held so far."""
    digests: Mapping[str, str] | None = None
    """SHA-256 of both models as they are exported, by `a` and `b`, and of what was handed over, by
    `exchange`; None in earlier versions."""
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_test(self) -> Figures:
        """The figures on T, of a run that has one."""
        assert self.test is not None
        return self.test

    @property
    def judged(self) -> Figures:
        """The figures that models are chosen by, of a run with T or V: on V, or without one T."""
        return self.on_test if self.validation is None else self.validation

    def to_json(self) -> dict[str, Any]:
        """The line's keys."""
        line: dict[str, Any] = {"phase": "cotrain", "epoch": self.epoch}
        for name in ("exchange", "agreement_rate", "num_equal_codes", "never_selected_fraction"):
            line[name] = getattr(self, name)
        line["pool"] = self.pool
        for model, role in self.roles.items():
            line |= {key.format(model): getattr(role, name) for name, key in _KEYS_OF_ROLE.items()}
        for model, role in self.roles.items():
            line |= {} if role.fit is None else {f"fit_{model}": role.fit.to_json()}
            if role.own_accuracy is not None:
                line[_OWN_ACCURACY.format(model)] = role.own_accuracy
        line["test"] = None if self.test is None else _figures_to_json(self.test)
        line |= {} if self.validation is None else {"validation": _figures_to_json(self.validation)}
        for name in ("seconds", "seconds_by_rank", "peak_memory_bytes_by_rank"):
            line[name] = getattr(self, name)
        line |= {} if self.digests is None else {"digests": dict(self.digests)}
        return line | dict(self.further)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "CotrainRecord":
        """Read back what `to_json` gave; raises KeyError or TypeError for anything else."""
        rest = dict(line)
        del rest["phase"]
        roles = {}
        for model in ROLE_NAMES:
            own = {name: rest.pop(key.format(model)) for name, key in _KEYS_OF_ROLE.items()}
            # Epoch 0 has trained nothing, so its line has no such key.
            fit = rest.pop(f"fit_{model}", None)
            own["own_accuracy"] = rest.pop(_OWN_ACCURACY.format(model), None)
            roles[model] = RoleRecord(**own, fit=None if fit is None else Fit(**fit))
        test, validation = rest.pop("test"), rest.pop("validation", None)
        plain = (
            *("epoch", "exchange", "agreement_rate", "num_equal_codes", "never_selected_fraction"),
            *("pool", "seconds", "seconds_by_rank", "peak_memory_bytes_by_rank"),
        )
        return cls(
            **{name: rest.pop(name) for name in plain},
            roles=roles,
            test=None if test is None else _figures_from_json(test),
            validation=None if validation is None else _figures_from_json(validation),
            digests=rest.pop("digests", None),
            further=rest,
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An accuracy that was counted on few images: with its 95 % interval."""

    top1: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """What heads reach on labeled images that they have not seen, where there is no T."""

    num_images: int
    num_alone: int
    """Labeled images that are the only one of their class: no head has seen one like them."""
    of: Mapping[str, Estimate]
    """Of a, b and, where both learn the same labels, ensemble."""

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CrossValidation":
        """Read back what `to_json` gave."""
        of = {name: Estimate(**own) for name, own in values["of"].items()}
        return cls(**(dict(values) | {"of": of}))


Record = PretrainRecord | CotrainRecord


def record_from_json(line: Mapping[str, Any]) -> Record:
    """A line of the history; raises KeyError, TypeError or ValueError where it is none."""
    match line["phase"]:
        case "pretrain":
            return PretrainRecord.from_json(line)
        case "cotrain":
            return CotrainRecord.from_json(line)
        case phase:
            raise ValueError(f"phase {phase} is unknown")


def _figures_to_json(figures: Figures) -> dict[str, dict[str, float]]:
    return {name: asdict(accuracy) for name, accuracy in figures.items()}


def _figures_from_json(figures: Mapping[str, Mapping[str, float]]) -> dict[str, Accuracy]:
    return {name: Accuracy(**values) for name, values in figures.items()}
