"""A run as a small table of HTML, for notebooks."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.metrics import Accuracy
from cotrain_dist.method.splits import Split
from cotrain_dist.method.statistics import wilson_interval
from cotrain_dist.printable import printable
from cotrain_dist.store.records import CotrainRecord

ROWS = {"a": "A", "b": "B", "ensemble": "A and B together"}


def html_of_run(
    path: Path, records: Sequence[CotrainRecord], table: SplitTable, best: dict[str, Any] | None
) -> str:
    """Top-1 accuracy of A, B, both together and models/best, with 95 % intervals where measured.

    records: of Step 2, oldest first. best: role, epoch and chosen_on of models/best, as its
    config.json says; None where there is none.
    """
    where = f"Run <code>{escape(printable(str(path)))}</code>"
    if not records:
        return f"<p>{where}: no epoch of Step 2 yet.</p>"
    last = records[-1]
    rows = [(title, name, last) for name, title in ROWS.items()]
    if best is not None:
        title = f"models/best: {str(best['role']).upper()} of epoch {best['epoch']}"
        found = [record for record in records if record.epoch == best["epoch"]]
        rows += [(title, str(best["role"]), record) for record in found]
    splits = [(Split.T, "test"), (Split.V, "validation")]
    measured = [(split, key) for split, key in splits if getattr(last, key) is not None]
    if not measured:
        return f"<p>{where}: epoch {last.epoch} of Step 2; there is no T and no V.</p>"
    nums = {split: len(table.sample_ids(split)) for split, _ in measured}
    heads = "".join(f"<th>top-1 on {s.name}, {nums[s]:,} images, %</th>" for s, _ in measured)
    lines = []
    for title, name, record in rows:
        figures = [(getattr(record, key) or {}, nums[split]) for split, key in measured]
        cells = "".join(f"<td>{_cell(of.get(name), num)}</td>" for of, num in figures)
        lines.append(f"<tr><td>{escape(printable(title))}</td>{cells}</tr>")
    return (
        f"<p>{where}: epoch {last.epoch} of Step 2</p><table><thead><tr><th></th>{heads}</tr>"
        f"</thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _cell(accuracy: Accuracy | None, num: int) -> str:
    if accuracy is None:
        return ""
    low, high = wilson_interval(round(accuracy.top1 * num), num)
    return f"{100 * accuracy.top1:.1f} ({100 * low:.1f} to {100 * high:.1f})"
