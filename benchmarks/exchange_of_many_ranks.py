"""What a rank of a large world has to do with the votes on U, counted without a network.

    python benchmarks/exchange_of_many_ranks.py [--num 1000000 100000000] [--ranks 10 100 1000]

The plan of the exchange (`method.exchange.meetings`) is made for each world, half of its ranks for
A and the other half for B or a third for A, and counted: images whose votes a rank makes, bytes of
votes it sends and receives, ranks it meets, each for the rank that has most. What is handed over to
all is R, and counts by class: they are not part of it.
"""

import argparse
import time
from collections import Counter

from rich.console import Console
from rich.table import Table

from cotrain_dist.method.exchange import meetings, range_of
from cotrain_dist.method.placement import Placement
from cotrain_dist.types import ROLES

BATCH_SIZE = 256
VOTE_BYTES = 4


def main() -> None:
    """Print a line for each world."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", nargs="+", type=int, default=[10**6, 10**7, 10**8])
    parser.add_argument("--ranks", nargs="+", type=int, default=[10, 100, 1000])
    given = parser.parse_args()
    table = Table("images", "ranks of A + B", "votes made", "sent, B", "received, B", "met", "s")
    for num_images in given.num:
        for num_ranks in given.ranks:
            for num_a in (num_ranks // 2, num_ranks // 3):
                table.add_row(*_count(num_images, num_a, num_ranks))
    Console().print(table)


def _count(num_images: int, num_a: int, num_ranks: int) -> list[str]:
    placement = Placement(tuple(range(num_a)), tuple(range(num_a, num_ranks)))
    started = time.perf_counter()
    plan = meetings(num_images, BATCH_SIZE, placement)
    seconds = time.perf_counter() - started
    sent, received, met = Counter[int](), Counter[int](), Counter[int]()
    for meeting in plan:
        num_bytes = VOTE_BYTES * (meeting.stop - meeting.start)
        sent[meeting.sender] += num_bytes
        received[meeting.receiver] += num_bytes
        met.update((meeting.sender, meeting.receiver))
    made = [
        len(range_of(role, rank, num_images, BATCH_SIZE, placement))
        for role in ROLES
        for rank in {placement.ranks_of(role)[0], placement.ranks_of(role)[-1]}
    ]
    counts = (max(made), *(max(counter.values()) for counter in (sent, received, met)))
    world = f"{num_a} + {num_ranks - num_a}"
    return [f"{num_images:,}", world, *(f"{count:,}" for count in counts), f"{seconds:.2f}"]


if __name__ == "__main__":
    main()
