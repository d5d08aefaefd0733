"""Records of a history with plain values, for tests that look at few of their fields."""

from typing import Any

from cotrain_dist.method.metrics import Accuracy
from cotrain_dist.store.records import CotrainRecord, Fit, PretrainRecord, RoleRecord


def accuracy(top1: float, recall: float | None = None, error: float = 0.1) -> Accuracy:
    return Accuracy(
        top1=top1,
        top5=1.0,
        mean_class_recall=top1 / 2 if recall is None else recall,
        calibration_error=error,
    )


def fit(num_steps: int = 10) -> Fit:
    return Fit(loss=1.0, learning_rate=1e-3, num_steps=num_steps, num_samples=10 * num_steps)


def pretrain_record(role: str, epoch: int, **changes: Any) -> PretrainRecord:
    plain = {"fit": fit(), "train_accuracy": None, "test": None, "seconds": {"train": 1.0}}
    return PretrainRecord(role=role, epoch=epoch, **(plain | changes))


def cotrain_record(
    epoch: int, test: dict[str, Accuracy], role: dict[str, Any] | None = None, **changes: Any
) -> CotrainRecord:
    """`role`: changed fields of both models' part."""
    plain_role: dict[str, Any] = {
        "teacher": None,
        "num_selected": 0,
        "selected_accuracy": None,
        "selected_class_histogram": [0, 0],
        "selected_right_histogram": [0, 0],
        "fit": fit() if epoch else None,
    }
    plain: dict[str, Any] = {
        "exchange": None,
        "agreement_rate": None,
        "num_equal_codes": None,
        "never_selected_fraction": 1.0,
        "pool": None,
        "validation": None,
        "seconds": 6.0,
        "seconds_by_rank": [{"train": 1.0}],
        "peak_memory_bytes_by_rank": [1],
        "roles": {name: RoleRecord(**(plain_role | (role or {}))) for name in ("a", "b")},
    }
    return CotrainRecord(epoch=epoch, test=test, **(plain | changes))
