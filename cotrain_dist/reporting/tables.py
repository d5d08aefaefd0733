"""Tables for the terminal."""

from typing import Any

from rich.table import Table

COLUMNS = (
    ("top1", "top-1"),
    ("mean_class_recall", "mean recall"),
    ("calibration_error", "calib. error"),
)


def before_and_after(history: list[dict[str, Any]]) -> Table:
    """A, B and ensemble on T before Step 2 (epoch 0 of its history) and after its last epoch."""
    measured = [record for record in history if record["phase"] == "cotrain"]
    first, last = measured[0], measured[-1]
    table = Table(title=f"Accuracy on T in %, before and after {last['epoch']} epochs of Step 2")
    table.add_column("")
    for _, title in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("gain", justify="right")
    for name, title in (("a", "A"), ("b", "B"), ("ensemble", "ensemble")):
        before, after = first["test"][name], last["test"][name]
        cells = [f"{100 * before[key]:.1f} → {100 * after[key]:.1f}" for key, _ in COLUMNS]
        table.add_row(title, *cells, f"{100 * (after['top1'] - before['top1']):+.1f}")
    return table
