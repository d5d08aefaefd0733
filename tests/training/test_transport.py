"""What an exchange is on its way: every byte counted, and back to what it was."""

import pytest
import torch

from cotrain_dist.method.weights import decode_weights
from cotrain_dist.training.transport import NUM_HEADER, joined, pack_exchange, unpack_exchange
from cotrain_dist.types import Exchange, PseudoLabeled

HEADER = 8 * NUM_HEADER
POOL_IDS = torch.arange(1000) * 7 + 3


def r_of(
    places: list[int], labels: list[int], codes: list[int] | None = None, start: int = 0
) -> PseudoLabeled:
    """Of some places in U; codes: of the weights."""
    weights = None if codes is None else decode_weights(torch.tensor(codes, dtype=torch.int16))
    ids = POOL_IDS[torch.tensor(places, dtype=torch.int64)]
    return PseudoLabeled(ids, torch.tensor(labels, dtype=torch.int64), weights=weights)


def values_of(exchanged: Exchange) -> list[list[float]]:
    found = []
    for part in (exchanged.a, exchanged.b):
        found += [part.sample_ids.tolist(), part.labels.tolist()]
        found.append([] if part.weights is None else part.weights.tolist())
    return found


MANY = list(range(0, 800, 2))
"""400 images in a range of 799."""

# R_A, R_B, and bytes beside the header: of places, labels (with a byte before them), weights
CASES = {
    "nothing": (r_of([], []), r_of([], []), 1),
    "few": (r_of([5, 900], [65_000, 2]), r_of([8], [1]), 2 * 4 + 1 + 1 + 6),
    "dense": (r_of(MANY, MANY), r_of([], []), 100 + 1 + 800),
    "one range": (r_of([70, 71, 72], [1, 2, 3]), r_of([], []), 1 + 1 + 6),
    "equal": (r_of(MANY, MANY), r_of(MANY, MANY), 100 + 1 + 800),
    "equal places": (r_of(MANY, MANY), r_of(MANY, MANY[::-1]), 100 + 1 + 1600),
    "overlap": (
        r_of([*MANY, 801], [*MANY, 7]),
        r_of([*MANY, 802], [*MANY, 9]),
        101 + 101 + 1 + 802 + 2,
    ),
    "contradiction": (r_of([1, 2], [3, 3]), r_of([2, 3], [4, 3]), 1 + 1 + 1 + 8),
    "weights": (
        r_of([1, 2], [3, 3], [0, 15_000]),
        r_of([2, 3], [3, 3], [77, 1]),
        1 + 1 + 1 + 6 + 1 + 8,
    ),
    "equal weights": (
        r_of(MANY, MANY, MANY),
        r_of(MANY, MANY, MANY),
        100 + 1 + 800 + 1 + 800,
    ),
    "weights of B alone": (r_of([], []), r_of([2], [3], [77]), 1 + 1 + 2 + 1 + 2),
}


@pytest.mark.parametrize("case", CASES)
def test_bytes_are_counted_and_come_back(case: str) -> None:
    r_a, r_b, num_bytes = CASES[case]
    exchanged = Exchange(r_a, r_b)
    payload = pack_exchange(exchanged, POOL_IDS)
    assert len(payload) == HEADER + num_bytes
    found = unpack_exchange(payload, POOL_IDS)
    assert values_of(found) == values_of(exchanged)
    assert pack_exchange(found, POOL_IDS) == payload
    for part in (found.a, found.b):
        assert part.sample_ids.dtype == part.labels.dtype == torch.int64


def test_another_exchange_has_other_bytes() -> None:
    payloads = [pack_exchange(Exchange(r_a, r_b), POOL_IDS) for r_a, r_b, _ in CASES.values()]
    payloads += [pack_exchange(Exchange(r_b, r_a), POOL_IDS) for r_a, r_b, _ in CASES.values()]
    assert len(set(payloads)) == 2 * len(CASES) - 3, "three of them have equal R_A and R_B"


def test_parts_join_in_the_order_of_u() -> None:
    parts = [
        Exchange(r_of([4, 9], [1, 2], [10, 20]), r_of([], [])),
        Exchange(r_of([], []), r_of([3], [7], [30])),
        Exchange(r_of([2, 6], [3, 4], [40, 50]), r_of([8], [8], [60])),
    ]
    expected = Exchange(
        r_of([2, 4, 6, 9], [3, 1, 4, 2], [40, 10, 50, 20]), r_of([3, 8], [7, 8], [30, 60])
    )
    assert values_of(joined(parts)) == values_of(expected)
    assert values_of(joined([])) == values_of(Exchange.empty())
    plain = Exchange(r_of([1], [2]), r_of([], []))
    assert joined([plain, Exchange.empty()]).a.weights is None
