"""Which labels pay: images chosen in several ways, and what heads for both models make of them.

The labels are taken from images whose labels are known and hidden. Nothing is trained but the last
layers, on features that are computed once: a curve over numbers of labels takes minutes.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.config import Config, RoleConfig, resolve_role
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import UserError
from cotrain_dist.inference.choose import (
    Probs,
    Query,
    choose,
    share_heads,
)
from cotrain_dist.keys import keyed_generator
from cotrain_dist.method.heads import Scaling
from cotrain_dist.method.metrics import measure_accuracy
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json
from cotrain_dist.store import atomic
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.study.arms import CEILING
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.features import JointFeatures, both_features
from cotrain_dist.training.heads import fit_rows, scaling_over
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import ROLES, Role, TrainingSet

AT_ONCE = ("random", "balanced", "herding", "density")
"""Chosen before there is a label; the others in rounds of one image per class."""


@dataclass(frozen=True)
class Point:
    """What a number of labels came to, with one seed. Accuracies on T, 0..1."""

    num_labels: int
    num_classes: int
    """Classes with a label."""
    a: float
    b: float
    vote: float
    """Of the mean of both models' probabilities."""
    seconds: float
    """Of choosing and fitting, since the point before."""
    chosen: list[int]
    """sample_ids of all labels, in the order in which they were asked for; none for the ceiling."""


@dataclass(frozen=True)
class Bench:
    """The features of one seed's splits, and the fits on them. All ranks hold the same."""

    table: SplitTable
    roles: dict[Role, RoleConfig]
    features: JointFeatures
    scalings: tuple[Scaling, Scaling]
    rt: Runtime

    @classmethod
    def of(
        cls,
        table: SplitTable,
        config: Config,
        stores: tuple[FeatureStore, FeatureStore],
        rt: Runtime,
    ) -> "Bench":
        """Centers and scales are taken from images that are not held out, labeled or not."""
        pool = pool_of(table)
        return cls(
            table,
            {role: resolve_role(config, role.value) for role in ROLES},
            JointFeatures.of(stores, pool),
            (scaling_over(stores[0], pool), scaling_over(stores[1], pool)),
            rt,
        )

    def fit(self, labeled: Tensor) -> Probs:
        """Heads of A and B for these labels. Collective over all ranks, each role fits its own."""
        ids = labeled.sort().values  # as `SplitTable.labeled` has them
        given = torch.zeros(len(ids), dtype=torch.bool)
        learned = TrainingSet(ids, self.table.class_ids[ids], given)
        num_classes = len(self.table.class_names)
        own = {}
        for role, store, scaling in zip(ROLES, self.features.stores, self.scalings, strict=True):
            if role in self.rt.roles_here and not self.rt.role_groups[role].index:
                rows = store.read(ids).double().numpy()
                head = fit_rows(rows, learned, num_classes, scaling, self.roles[role])
                weight, bias = torch.from_numpy(head.weight), torch.from_numpy(head.bias)
                own[role] = torch.cat([weight, bias[:, None]], dim=1).float()
        # After all fits: a gather between them would let one role wait for the other.
        return share_heads(own, self.features.stores, self.rt)

    def measure(self, labeled: Tensor, started: float) -> tuple[Point, Probs]:
        """Fit to some labels and measure on T. Collective over all ranks."""
        probs = self.fit(labeled)
        ids = self.table.sample_ids(Split.T)
        targets, on_test = self.table.class_ids[ids], probs(ids)
        a, b, vote = (
            measure_accuracy(values, targets).top1
            for values in (on_test[0], on_test[1], on_test.mean(dim=0))
        )
        return Point(
            num_labels=len(labeled),
            num_classes=len(self.table.class_ids[labeled].unique()),
            a=a,
            b=b,
            vote=vote,
            seconds=time.monotonic() - started,
            chosen=labeled.tolist(),
        ), probs


def pool_of(table: SplitTable) -> Tensor:
    """sample_ids of images that are neither held out nor left out, and whose label is known."""
    unseen = torch.isin(table.splits, torch.tensor([Split.T, Split.V, Split.OUT]))
    return (~unseen & (table.class_ids >= 0)).nonzero().flatten()


def curve_of(strategy: str, nums: Sequence[int], bench: Bench, seed: int) -> Iterator[Point]:
    """A point for each number of labels, ascending. Collective over all ranks."""
    if strategy in AT_ONCE:
        yield from _at_once(strategy, nums, bench, seed)
    else:
        yield from _in_rounds(strategy, nums, bench, seed)


def _at_once(strategy: str, nums: Sequence[int], bench: Bench, seed: int) -> Iterator[Point]:
    started, pool = time.monotonic(), pool_of(bench.table)
    if strategy == "balanced":
        order = balanced_order(bench.table.class_ids[pool], seed)
        chosen = pool[order[: max(nums)]]
    else:
        query, nothing = Query(strategy, max(nums), seed), pool[:0]
        ids = choose(query, pool, nothing, bench.features, None, bench.rt.control)
        chosen = torch.tensor(ids)
    for num in sorted(nums):
        yield bench.measure(chosen[:num], started)[0]
        started = time.monotonic()


def balanced_order(class_ids: Tensor, seed: int) -> Tensor:
    """Rows so that each class comes once before any comes again, in keyed order. [N] -> [N]."""
    order = torch.randperm(len(class_ids), generator=keyed_generator(seed, "balanced labels"))
    place = torch.empty_like(order)  # how many of its class come before a row
    seen: dict[int, int] = {}
    for row in order.tolist():
        own = int(class_ids[row])
        place[row] = seen[own] = seen.get(own, -1) + 1
    return order[place[order].sort(stable=True).indices]


def _in_rounds(strategy: str, nums: Sequence[int], bench: Bench, seed: int) -> Iterator[Point]:
    """One image per class in each round; the first one by herding or at random."""
    started, pool = time.monotonic(), pool_of(bench.table)
    begin = "herding" if strategy == "herding_rounds" else "random"
    labeled, probs = pool[:0], None
    num_classes = len(bench.table.class_names)
    for num in sorted(nums):
        while len(labeled) < num:
            query = Query(
                begin if probs is None else strategy, min(num_classes, num - len(labeled)), seed
            )
            left = pool[~torch.isin(pool, labeled)]
            more = choose(query, left, labeled, bench.features, probs, bench.rt.control)
            labeled = torch.cat([labeled, torch.tensor(more)])
            point, probs = bench.measure(labeled, started)
        yield point
        started = time.monotonic()


def label_curves(
    config: Config,
    strategies: Sequence[str],
    nums: Sequence[int],
    classifiers: Sequence[Classifier],
    images: Images,
    ctx: RunContext,
    file: Path,
) -> dict[str, list[dict[str, Any]]]:
    """What is missing of one seed's curves, kept in `file` strategy by strategy.

    Collective over all ranks. config: with the seed. Returns points by strategy, as in the file.
    """
    rt = ctx.runtime
    num_pool = len(pool_of(images.table))
    if max(nums) > num_pool:
        raise UserError(
            "--num_labels", max(nums), f"only {num_pool} images are not held out", "ask for fewer"
        )
    found = broadcast_json(_read(file) if rt.is_lead else None, rt.control)
    wanted = [name for name in (*strategies, CEILING) if not _is_whole(found.get(name), name, nums)]
    if not wanted:
        return dict(found)
    bench = Bench.of(images.table, config, both_features(classifiers, images, ctx), rt)
    for name in wanted:
        if name == CEILING:
            points = [bench.measure(pool_of(images.table), time.monotonic())[0]]
        else:
            points = list(curve_of(name, nums, bench, config.seed))
        found[name] = [_to_json(point, keep=name != CEILING) for point in points]
        votes = ", ".join(f"{point.num_labels}: {point.vote:.1%}" for point in points)
        ctx.reporter.say(f"seed {config.seed}, labels by {name}: {votes}")
        if rt.is_lead:
            atomic.write_json(file, found)
    return dict(found)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def _is_whole(points: list[dict[str, Any]] | None, name: str, nums: Sequence[int]) -> bool:
    if points is None:
        return False
    return name == CEILING or {point["num_labels"] for point in points} >= set(nums)


def _to_json(point: Point, *, keep: bool) -> dict[str, Any]:
    return vars(point) | {"chosen": point.chosen if keep else []}
