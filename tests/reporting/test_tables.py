"""Tables for the terminal: the right figures in the right cells."""

from io import StringIO
from typing import Any

from rich.console import Console

from cotrain_dist.reporting.tables import before_and_after


def figures(top1: float, recall: float, error: float) -> dict[str, float]:
    return {"top1": top1, "top5": 0.9, "mean_class_recall": recall, "calibration_error": error}


def record(phase: str, epoch: int, *values: tuple[float, float, float]) -> dict[str, Any]:
    names = ("a", "b", "ensemble")
    test = {name: figures(*v) for name, v in zip(names, values, strict=True)}
    return {"phase": phase, "epoch": epoch, "test": test}


HISTORY = [
    {"phase": "pretrain", "epoch": 50, "role": "a", "test": figures(0.11, 0.12, 0.13)},
    record("cotrain", 0, (0.5, 0.4, 0.3), (0.487, 0.45, 0.25), (0.55, 0.5, 0.2)),
    record("cotrain", 1, (0.91, 0.92, 0.93), (0.94, 0.95, 0.96), (0.97, 0.98, 0.99)),
    record("cotrain", 20, (0.658, 0.6, 0.1), (0.4, 0.35, 0.05), (0.55, 0.6, 0.125)),
]


def cells_of(history: list[dict[str, Any]]) -> tuple[str, dict[str, list[str]]]:
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
    text, cells = cells_of(HISTORY[:2])
    assert "after 0 epochs" in text
    assert cells["A"] == ["50.0 → 50.0", "40.0 → 40.0", "30.0 → 30.0", "+0.0"]
