"""Is the promise of `labels` kept? Many audits of one run's U, whose true classes are known.

    cotrain-dist labels RUN --output all.parquet
    python benchmarks/promise.py RUN all.parquet [--audited 100 200 400] [--draws 1000]

For each size of an audit, promise and draw: the cut of the method, and the naive one, the lowest
above which the audit itself has the precision. Printed: the share of draws in which the promise was
broken over all of U, and the mean share of U that was kept. U of an experiment has hidden labels
(data.labeled_fraction); images without one are left out.
"""

import argparse
import math
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cotrain_dist.method.audit import ALL, cut_for_error, cut_for_precision

DELTA = 0.05


def main() -> None:
    """Print a line for each promise and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--audited", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--draws", type=int, default=1000)
    given = parser.parse_args()
    certainties, is_right = _read(given.run, given.labels)
    share = is_right.double().mean().item()
    title = f"{given.run}: {len(is_right):,} images of U, {share:.1%} labeled rightly"
    table = Table(
        *("promise", "audited", "broken, %", "kept, %", "naive: broken, %", "kept, %"), title=title
    )
    for what, value in (("precision", 0.90), ("precision", 0.95), ("error", 0.05), ("error", 0.10)):
        for num in given.audited:
            table.add_row(*_row(what, value, num, given.draws, certainties, is_right))
    Console(width=110).print(table)


def _read(run: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Certainty and whether the label is right, of each image of U with a known class."""
    rows = pq.read_table(run / "splits.parquet").to_pylist()
    truth = {row["path"]: row["class"] for row in rows if row["split"] == "U"}
    found = [row for row in pq.read_table(labels).to_pylist() if truth[row["path"]] is not None]
    certainties = torch.tensor([row["confidence"] for row in found], dtype=torch.float64)
    return certainties, torch.tensor([row["label"] == truth[row["path"]] for row in found])


def _row(
    what: str, value: float, num: int, num_draws: int, certainties: Tensor, is_right: Tensor
) -> list[str]:
    broken, kept = {"method": 0, "naive": 0}, {"method": 0, "naive": 0}
    for draw in range(num_draws):
        generator = torch.Generator().manual_seed(draw)
        ids = torch.randperm(len(certainties), generator=generator)[:num]
        audited, right = certainties[ids], is_right[ids]
        if what == "precision":
            cut = cut_for_precision(audited, right, value, DELTA)
        else:
            cut = cut_for_error(certainties, audited, right, value, DELTA)
        aboves = {"method": math.inf if cut is None else cut.above}
        aboves["naive"] = _naive(what, value, audited, right)
        for name, above in aboves.items():
            is_kept = certainties > above
            num_kept = int(is_kept.sum())
            num_wrong = int((is_kept & ~is_right).sum())
            limit = (1.0 - value) * num_kept if what == "precision" else value * len(certainties)
            broken[name] += num_wrong > limit
            kept[name] += num_kept
    shares = [
        f"{100.0 * number:.1f}"
        for name in ("method", "naive")
        for number in (broken[name] / num_draws, kept[name] / num_draws / len(certainties))
    ]
    sign = "at least" if what == "precision" else "at most"
    return [f"{what} {sign} {value:g}", str(num), *shares]


def _naive(what: str, value: float, audited: Tensor, right: Tensor) -> float:
    """The lowest cut at which the audit itself is good enough."""
    order = audited.argsort(descending=True)
    wrong = (~right[order]).cumsum(0).double()
    if what == "precision":
        is_good = wrong <= (1.0 - value) * torch.arange(1, len(order) + 1)
    else:
        is_good = wrong <= value * len(order)
    last = is_good.nonzero().flatten()
    if not len(last):
        return math.inf
    place = int(last[-1]) + 1
    return float(audited[order[place]]) if place < len(order) else ALL


if __name__ == "__main__":
    main()
