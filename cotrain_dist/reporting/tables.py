"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from cotrain_dist.method.metrics import Accuracy, Confusion
from cotrain_dist.runtime.progress import build_console
from cotrain_dist.store.records import CotrainRecord, Record

TITLES = {"a": "A", "b": "B", "ensemble": "ensemble"}

COLUMNS = (
    ("top1", "top-1"),
    ("mean_class_recall", "mean recall"),
    ("calibration_error", "calib. error"),
)


def show_outcome(history: Sequence[Record]) -> None:
    """What Step 2 has changed, on the console; nothing where there is no such epoch.

    history: as `train` returns it, so that the lead rank alone shows it.
    """
    measured = [record for record in history if isinstance(record, CotrainRecord)]
    if measured and measured[-1].epoch and measured[-1].test:
        build_console().print(before_and_after(measured))


def before_and_after(measured: Sequence[CotrainRecord]) -> Table:
    """A, B and ensemble on T before Step 2 (epoch 0 of its history) and after its last epoch."""
    first, last = measured[0], measured[-1]
    table = Table(title=f"Accuracy on T in %, before and after {last.epoch} epochs of Step 2")
    table.add_column("")
    for _, title in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("gain", justify="right")
    for name, title in TITLES.items():
        before, after = first.on_test[name], last.on_test[name]
        cells = [
            f"{100 * getattr(before, key):.1f} → {100 * getattr(after, key):.1f}"
            for key, _ in COLUMNS
        ]
        table.add_row(title, *cells, f"{100 * (after.top1 - before.top1):+.1f}")
    return table


def accuracy_table(figures: dict[str, Accuracy], title: str) -> Table:
    """A, B and ensemble on one set of images."""
    table = Table(title=f"{title}, in %")
    for heading in ("", "top-1", "top-5", "mean recall", "calib. error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, heading in TITLES.items():
        values = asdict(figures[name]).values()
        table.add_row(heading, *(f"{100 * value:.1f}" for value in values))
    return table


def best_line(notes: Mapping[str, Any]) -> str:
    """Which of the models `models/best` is; notes: what its config.json says of its making."""
    chosen_on = {"T": "T, so its accuracy on T is optimistic"}.get(
        notes["chosen_on"], notes["chosen_on"]
    )
    return (
        f"models/best is {str(notes['role']).upper()} of epoch {notes['epoch']}, chosen on "
        f"{chosen_on}; the label that predict writes is the ensemble's"
    )


def class_table(recall: dict[str, Tensor], targets: Tensor, class_names: Sequence[str]) -> Table:
    """Recall of every class that occurs, the worst of the ensemble first."""
    table = Table(title="By class: fraction called by its name, in %")
    for heading in ("class", "images", *TITLES.values()):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    counts = torch.bincount(targets, minlength=len(class_names))
    # Classes without images are NaN and sort last; they have no line.
    for class_id in recall["ensemble"].argsort(stable=True).tolist():
        if counts[class_id]:
            fractions = [f"{100 * recall[name][class_id].item():.1f}" for name in TITLES]
            table.add_row(class_names[class_id], str(int(counts[class_id])), *fractions)
    return table


def confusion_table(confused: list[Confusion], class_names: Sequence[str]) -> Table:
    """The most confused pairs of classes."""
    table = Table(title="Most confused by the ensemble")
    for heading in ("class", "called", "images"):
        table.add_column(heading)
    for pair in confused:
        table.add_row(class_names[pair.true], class_names[pair.called], str(pair.count))
    return table
