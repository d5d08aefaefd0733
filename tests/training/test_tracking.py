"""Trackers: TensorBoard holds the history's numbers at their epochs; a missing package is told."""

from typing import Any

import pytest
from conftest import FinishedRun
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cotrain_dist.config.text import flatten
from cotrain_dist.errors import UserError
from cotrain_dist.runtime import tracking
from cotrain_dist.runtime.tracking import check_tracker


@pytest.fixture(scope="module")
def tracked(finished_run: FinishedRun) -> dict[str, dict[int, float]]:
    """The values of each tag by step."""
    # The settings lie in a folder below.
    (file,) = (finished_run.path / "cotrain_dist").glob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def test_accuracies_of_step_two(
    finished_run: FinishedRun, tracked: dict[str, dict[int, float]]
) -> None:
    records = [r for r in finished_run.lines if r["phase"] == "cotrain"]
    for group in ("test", "validation"):
        for name in ("a", "b", "ensemble"):
            for figure in ("top1", "mean_class_recall", "calibration_error"):
                expected = {r["epoch"]: pytest.approx(r[group][name][figure]) for r in records}
                assert list(expected) == [0, 1, 2]
                assert tracked[f"cotrain/{group}/{name}/{figure}"] == expected


def test_accuracies_of_step_one(
    finished_run: FinishedRun, tracked: dict[str, dict[int, float]]
) -> None:
    for name in ("a", "b"):
        records = [r for r in finished_run.lines if r.get("role") == name]
        losses = {r["epoch"]: pytest.approx(r["loss"]) for r in records}
        assert list(losses) == [*range(1, 21)]
        assert tracked[f"pretrain/{name}/loss"] == losses
        measured = {r["epoch"]: pytest.approx(r["test"]["top1"]) for r in records if r["test"]}
        assert list(measured) == [8, 16, 20]
        assert tracked[f"pretrain/{name}/test/top1"] == measured


def test_every_number_of_the_history_is_tracked(
    finished_run: FinishedRun, tracked: dict[str, dict[int, float]]
) -> None:
    num_numbers = 0
    for record in finished_run.lines:
        prefix = "/".join(filter(None, (record["phase"], record.get("role"))))
        numbers: dict[str, Any] = {
            key.replace(".", "/"): value
            for key, value in flatten(record).items()
            if isinstance(value, int | float) and key != "epoch"
        }
        for key, value in numbers.items():
            num_numbers += 1
            found = tracked[f"{prefix}/{key}"][record["epoch"]]
            assert found == pytest.approx(value, rel=1e-6)
    assert num_numbers > 100


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_missing_package_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    rule = rf"tracking: {name}: its package is not installed; pip install {name}"
    with pytest.raises(UserError, match=rule):
        check_tracker(name)


def test_nothing_is_missing_without_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    check_tracker("none")
    monkeypatch.undo()
    check_tracker("tensorboard")
