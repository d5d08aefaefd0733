"""The exchange and its record at scale, on two gloo ranks of one thread.

    python benchmarks/exchange.py [--num 1000000 10000000] [--alone]

Synthetic votes of both models on U, 1,000 classes, a tenth of U in R. In turns: the exchange as it
is, the plain one with all votes on every rank, and what the record of an epoch counts. Bytes
received are those of the tensors that torch.distributed fills from another rank. --alone: only the
exchange as it is, three times, for sizes at which the other two need more memory than there is.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

from targets import Target, print_all, ratios
from two_ranks import NUM_CLASSES, in_two_ranks, peak_memory, received_bytes, table_of

NUM_REPEATS = 7
NUM_REPEATS_ALONE = 3
THRESHOLD = 0.8
SIZES = (10**6, 10**7)


def targets(sizes: tuple[int, ...] = SIZES, *, alone: bool = False) -> list[Target]:
    """Measured now. The largest of `sizes` is compared with the smallest."""
    found = in_two_ranks(_measure_exchange, sizes, alone)
    listed = []
    for size in sizes:
        # Of two ranks, the one that had more.
        worst = {
            name: [max(both) for both in zip(*(rank[size][name] for rank in found), strict=True)]
            for name in found[0][size]
        }
        listed += _targets_of(size, worst)
        found[0][size]["exchange, s"] = worst["exchange, s"]
    few, many = min(sizes), max(sizes)
    if few < many:
        slower = ratios(found[0][many]["exchange, s"], found[0][few]["exchange, s"])
        name = f"exchange, time of {many:,} votes to that of {few:,}"
        bound = 1.1 * many / few
        listed.append(Target(name=name, values=slower, bound=bound, is_least=False))
    return listed


def _targets_of(size: int, worst: dict[str, list[float]]) -> list[Target]:
    what, is_alone = f"exchange of {size:,} votes", "record, s" not in worst
    times = {name: worst[name] for name in worst if name.endswith(", s")}
    listed = [
        Target(
            name=f"{what}, received for each",
            values=[value / size for value in worst["received, B"]],
            bound=4.2,
            is_least=False,
            unit="B",
            measured=_plainly(worst, "received, B", size),
        ),
        Target(
            name=f"{what}, peak memory for each",
            values=[value / size for value in worst["peak, B"]],
            bound=16.0,
            is_least=False,
            unit="B",
            measured=times if is_alone else _plainly(worst, "peak, B", size),
        ),
    ]
    if is_alone:
        return listed
    record = Target(
        name=f"{what}, time of the record to that of the exchange",
        values=ratios(worst["record, s"], worst["exchange, s"]),
        bound=1.0,
        is_least=False,
        measured=times,
    )
    return [*listed, record]


def _plainly(worst: dict[str, list[float]], name: str, size: int) -> dict[str, list[float]]:
    """What the plain exchange has of it, for each vote; nothing where it was not measured."""
    found = worst.get(f"plain {name}")
    return {} if found is None else {"plain, B": [value / size for value in found]}


def _measure_exchange(
    rt: Any, sizes: tuple[int, ...], alone: bool
) -> dict[int, dict[str, list[float]]]:
    """On one rank: what each repeat took, by size, and by name with its unit."""
    found: dict[int, dict[str, list[float]]] = {size: {} for size in sizes}
    measure = _repeats_alone if alone else _repeats_of
    repeats = {size: measure(size, found[size], rt) for size in sizes}
    for number in range(NUM_REPEATS_ALONE if alone else NUM_REPEATS):
        for size in sizes if number % 2 == 0 else reversed(sizes):
            next(repeats[size])
    return found


def _exchange(shards: Any, pool_ids: Any, rt: Any) -> Any:
    """The exchange as it is: the votes of this rank's part, and R."""
    from cotrain_dist.config import SelectionConfig
    from cotrain_dist.training import pool
    from cotrain_dist.training.evaluate import bring_together

    selection = SelectionConfig(threshold=THRESHOLD)
    met = bring_together(shards, len(pool_ids), 1024, rt)
    votes = pool.with_cuts(met, selection, NUM_CLASSES, rt.control)
    own = pool.select_here(votes, pool_ids, selection)
    return votes, pool.hand_over(own, pool_ids, rt.control)


def _repeats_alone(num_images: int, found: dict[str, list[float]], rt: Any) -> Iterator[None]:
    """Each step is one repeat of the exchange as it is."""
    import torch

    role, pool_ids = rt.roles_here[0], torch.arange(num_images)
    shards = {role: _votes_of(role, num_images)}
    while True:
        _watch(lambda: _exchange(shards, pool_ids, rt), "exchange", "", found, rt)
        yield


def _repeats_of(num_images: int, found: dict[str, list[float]], rt: Any) -> Iterator[None]:
    """Each step is one repeat: both exchanges, and the record of one."""
    import torch

    from cotrain_dist.config import SelectionConfig
    from cotrain_dist.training import pool

    selection = SelectionConfig(threshold=THRESHOLD)
    role, table = rt.roles_here[0], table_of(num_images)
    shards = {role: _votes_of(role, num_images)}
    pool_ids = torch.arange(num_images)

    def exchange() -> Any:
        return _exchange(shards, pool_ids, rt)

    def plain() -> Any:
        return pool.exchange_plainly(shards, pool_ids, selection, NUM_CLASSES, rt)

    for repeat in range(NUM_REPEATS):
        expected = None if repeat % 2 == 0 else _watch(plain, "plain", "plain ", found, rt)
        votes, exchanged = _watch(exchange, "exchange", "", found, rt)
        record = _record_of(votes, exchanged, table, pool_ids, rt)
        _watch(record, "record", "record ", found, rt)
        del votes
        if expected is None:
            expected = _watch(plain, "plain", "plain ", found, rt)
        assert _equal(exchanged, expected)
        yield


def _watch(
    action: Callable[[], Any], name: str, prefix: str, found: dict[str, list[float]], rt: Any
) -> Any:
    """Time, peak memory and bytes received of an action that both ranks do."""
    from cotrain_dist.runtime.collectives import barrier

    barrier(rt.control)
    with peak_memory() as peak, received_bytes() as received:
        started = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - started
    for key, value in (
        (f"{name}, s", seconds),
        (f"{prefix}peak, B", peak[0]),
        (f"{prefix}received, B", sum(received)),
    ):
        found.setdefault(key, []).append(value)
    return result


def _record_of(votes: Any, exchanged: Any, table: Any, pool_ids: Any, rt: Any) -> Callable[[], Any]:
    """What the lead rank does at the end of an epoch with votes and R."""
    import torch

    from cotrain_dist.training import epochs
    from cotrain_dist.training.commits import CotrainState
    from cotrain_dist.types import ROLES

    ever_selected = CotrainState.at_start(len(pool_ids)).ever_selected

    def record() -> Any:
        counts = epochs.count_votes(votes, table, pool_ids, rt.control)
        epochs.note_selected(ever_selected, exchanged, pool_ids)
        described = [epochs.describe_selected(exchanged.selected_by(r), table) for r in ROLES]
        return (
            counts.agreement_rate,
            counts.num_equal_codes,
            counts.describe(),
            described,
            int(torch.count_nonzero(ever_selected)),
        )

    return record


def _votes_of(role: Any, num_images: int) -> Any:
    """Packed votes on U: both models name one class on six images of ten; [N] int32."""
    import torch

    from cotrain_dist.method.scores import encode_uncertainty

    shared, own = (torch.Generator().manual_seed(seed) for seed in (7, role.index))
    packed = torch.empty(num_images, dtype=torch.int32)
    for rows in packed.split(1 << 18):
        size = len(rows)
        common = torch.randint(NUM_CLASSES, (size,), generator=shared)
        is_common = torch.rand(size, generator=shared) < 0.6
        other = torch.randint(NUM_CLASSES, (size,), generator=own)
        labels = torch.where(is_common, common, other)
        # Sure in about one case of six, so that a tenth of U is in an R.
        codes = encode_uncertainty(torch.rand(size, generator=own).double() ** 0.9)
        halves = torch.stack([labels.to(torch.uint16).view(torch.int16), codes], dim=1)
        rows.copy_(halves.view(torch.int32)[:, 0])
    return packed


def _equal(first: Any, second: Any) -> bool:
    import torch

    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for one, other in ((first.a, second.a), (first.b, second.b))
        for name in ("sample_ids", "labels")
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--alone", action="store_true")
    given = parser.parse_args()
    print_all(targets(tuple(given.num), alone=given.alone))


if __name__ == "__main__":
    main()
