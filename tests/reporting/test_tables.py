"""Tables for the terminal: the right figures in the right cells."""

from io import StringIO

import pytest
from histories import accuracy, cotrain_record, pretrain_record
from rich.console import Console

from cotrain_dist.reporting.tables import before_and_after, show_outcome
from cotrain_dist.store.records import CotrainRecord


def record(epoch: int, *values: tuple[float, float, float]) -> CotrainRecord:
    """Top-1, mean recall and calibration error of A, B and ensemble."""
    names = ("a", "b", "ensemble")
    return cotrain_record(
        epoch, {name: accuracy(*v) for name, v in zip(names, values, strict=True)}
    )


HISTORY = [
    record(0, (0.5, 0.4, 0.3), (0.487, 0.45, 0.25), (0.55, 0.5, 0.2)),
    record(1, (0.91, 0.92, 0.93), (0.94, 0.95, 0.96), (0.97, 0.98, 0.99)),
    record(20, (0.658, 0.6, 0.1), (0.4, 0.35, 0.05), (0.55, 0.6, 0.125)),
]


def cells_of(history: list[CotrainRecord]) -> tuple[str, dict[str, list[str]]]:
    """The whole text, and the cells of each row by its first cell."""
    file = StringIO()
    Console(width=120, file=file).print(before_and_after(history))
    text = file.getvalue()
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]
    return text, {row[0]: row[1:] for row in rows}


def test_before_and_after_compares_epoch_0_with_the_last() -> None:
    text, cells = cells_of(HISTORY)
    assert "Accuracy on T in %, before and after 20 epochs of Step 2" in text
    assert cells == {
        "A": ["50.0 → 65.8", "40.0 → 60.0", "30.0 → 10.0", "+15.8"],
        "B": ["48.7 → 40.0", "45.0 → 35.0", "25.0 → 5.0", "-8.7"],
        "ensemble": ["55.0 → 55.0", "50.0 → 60.0", "20.0 → 12.5", "+0.0"],
    }
    for title in ("top-1", "mean recall", "calib. error", "gain"):
        assert title in text


def test_before_and_after_of_epoch_0_alone() -> None:
    text, cells = cells_of(HISTORY[:1])
    assert "after 0 epochs" in text
    assert cells["A"] == ["50.0 → 50.0", "40.0 → 40.0", "30.0 → 30.0", "+0.0"]


def test_an_outcome_is_shown_where_step_two_has_changed_something(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_outcome([pretrain_record("a", 1), *HISTORY])
    assert "before and after 20 epochs" in capsys.readouterr().out
    show_outcome(HISTORY[:1])
    show_outcome([])
    assert capsys.readouterr().out == ""
