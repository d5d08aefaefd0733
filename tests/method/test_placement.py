"""Ranks of the two models, in worlds of 1 to 17, and the chunks that each rank passes over."""

import re

import pytest

from cotrain_dist.errors import UserError
from cotrain_dist.method.placement import (
    Placement,
    RankRow,
    check_cards,
    check_devices,
    chunks_of_rank,
    place,
)
from cotrain_dist.types import Role

WORLDS = range(1, 18)


def rows_of(nodes: str) -> list[RankRow]:
    """One rank a letter, its node."""
    return [RankRow(rank, node, "cpu") for rank, node in enumerate(nodes)]


def place_on(nodes: str, costs: tuple[float, float] = (1.0, 1.0)) -> tuple[list[int], list[int]]:
    placement = place(rows_of(nodes), cost_a=costs[0], cost_b=costs[1])
    return list(placement.ranks_a), list(placement.ranks_b)


def test_single_rank_holds_both_roles() -> None:
    placement = place(rows_of("n"), cost_a=1.0, cost_b=2.0)
    assert placement == Placement((0,), (0,))
    assert placement.roles_of(0) == (Role.A, Role.B)


@pytest.mark.parametrize("num_ranks", WORLDS[1:])
@pytest.mark.parametrize("costs", [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
def test_roles_share_the_world(num_ranks: int, costs: tuple[float, float]) -> None:
    ranks_a, ranks_b = place_on("n" * num_ranks, costs)
    assert sorted(ranks_a + ranks_b) == list(range(num_ranks))
    extra_of_a = len(ranks_a) - len(ranks_b)
    if num_ranks % 2 == 0:
        assert extra_of_a == 0
    else:
        assert extra_of_a == (1 if costs[0] >= costs[1] else -1)


@pytest.mark.parametrize(
    ("nodes", "ranks_a", "ranks_b"),
    [
        ("xxyy", [0, 1], [2, 3]),
        ("xyxy", [0, 2], [1, 3]),  # ranks dealt to the nodes in turn
        ("yxyx", [0, 2], [1, 3]),
        ("xyzxyz", None, None),  # three nodes: one of them holds both roles
        ("xxxxyyyy", [0, 1, 2, 3], [4, 5, 6, 7]),
        ("xyxyxyxy", [0, 2, 4, 6], [1, 3, 5, 7]),
    ],
)
def test_role_groups_stay_within_a_node(
    nodes: str, ranks_a: list[int] | None, ranks_b: list[int] | None
) -> None:
    found_a, found_b = place_on(nodes)
    if ranks_a is not None:
        assert (found_a, found_b) == (ranks_a, ranks_b)
    else:
        used = [{nodes[rank] for rank in ranks} for ranks in (found_a, found_b)]
        assert len(used[0] & used[1]) == 1


@pytest.mark.parametrize("nodes", ["xyzxy", "xyzxyz", "xxyzxyy"])
def test_ranks_of_a_role_ascend(nodes: str) -> None:
    # torch.distributed.new_group sorts its ranks: role ranks in another order than global ranks
    # would make all_gather over a role group return the shards in another order than role ranks.
    ranks_a, ranks_b = place_on(nodes)
    assert (ranks_a, ranks_b) == (sorted(ranks_a), sorted(ranks_b))


def test_order_of_the_rows_does_not_matter() -> None:
    rows = rows_of("xyxyx")
    expected = place(rows, cost_a=1.0, cost_b=2.0)
    assert place(rows[::-1], cost_a=1.0, cost_b=2.0) == expected


@pytest.mark.parametrize(
    ("ranks_a", "expected_a", "expected_b"),
    [([0], (0,), (1, 2, 3)), ([3, 1], (1, 3), (0, 2)), ([1, 2, 3], (1, 2, 3), (0,))],
)
def test_ranks_a_overrides(
    ranks_a: list[int], expected_a: tuple[int, ...], expected_b: tuple[int, ...]
) -> None:
    placement = place(rows_of("xyxy"), cost_a=1.0, cost_b=9.0, ranks_a=ranks_a)
    assert placement == Placement(expected_a, expected_b)


def test_ranks_a_of_a_single_rank() -> None:
    placement = place(rows_of("x"), cost_a=1.0, cost_b=1.0, ranks_a=[0])
    assert placement == Placement((0,), (0,))


@pytest.mark.parametrize(
    ("nodes", "ranks_a", "rule"),
    [
        ("xxxx", [0, 4], "must name ranks of this world, 0 to 3, once each"),
        ("xxxx", [-1], "must name ranks of this world, 0 to 3, once each"),
        ("xxxx", [1, 1], "must name ranks of this world, 0 to 3, once each"),
        ("xxxx", [0, 1, 2, 3], "must leave each role a rank of the 4"),
        ("xxxx", [], "must leave each role a rank of the 4"),
        ("x", [1], "must name ranks of this world, 0 to 0, once each"),
    ],
)
def test_ranks_a_that_do_not_fit(nodes: str, ranks_a: list[int], rule: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"placement.ranks_a: {ranks_a}: {rule}")):
        place(rows_of(nodes), cost_a=1.0, cost_b=1.0, ranks_a=ranks_a)


def test_lookups() -> None:
    placement = Placement((2, 5), (0, 1, 7))
    assert placement.ranks_of(Role.A) == (2, 5)
    assert placement.ranks_of(Role.B) == (0, 1, 7)
    assert placement.roles_of(5) == (Role.A,)
    assert placement.roles_of(0) == (Role.B,)
    assert [placement.role_rank(Role.B, rank) for rank in (0, 1, 7)] == [0, 1, 2]
    assert placement.role_rank(Role.A, 5) == 1


def test_ranks_that_share_a_gpu_are_refused() -> None:
    rows = [RankRow(0, "x", "cuda 1a"), RankRow(1, "x", "cuda 2b"), RankRow(2, "x", "cuda 1a")]
    with pytest.raises(UserError, match="device: cuda 1a: ranks 0 and 2 on x would share this GPU"):
        check_devices(rows)


@pytest.mark.parametrize(
    ("nodes", "devices"),
    [("xx", ("cpu", "cpu")), ("xx", ("cuda 1", "cuda 2")), ("xy", ("cuda 1", "cuda 1"))],
)
def test_ranks_with_a_device_each_are_accepted(nodes: str, devices: tuple[str, ...]) -> None:
    rows = [RankRow(i, node, devices[i]) for i, node in enumerate(nodes)]
    check_devices(rows)
    with pytest.raises(UserError, match="would share"):  # one more rank does not fit
        check_devices([*rows, RankRow(8, "x", "cuda 9"), RankRow(9, "x", "cuda 9")])


def rows_with(*cards: tuple[str, str]) -> list[RankRow]:
    """One rank a node, each with a GPU of a name and a compute capability."""
    return [RankRow(i, f"n{i}", f"cuda {i}", *card) for i, card in enumerate(cards)]


H100, A100_40, A100_80 = ("H100", "9.0"), ("A100-40GB", "8.0"), ("A100-80GB", "8.0")


def test_a_role_on_gpus_of_two_kinds_is_refused() -> None:
    text = (
        "placement.ranks_a: [0]: role B would train on GPUs of two kinds: A100-40GB (rank 1, n1) "
        "and H100 (rank 3, n3), whose copies of the model would part; give each role GPUs of one"
    )
    with pytest.raises(UserError, match=re.escape(text)):
        check_cards(rows_with(H100, A100_40, A100_80, H100), Placement((0,), (1, 2, 3)))


def test_roles_may_have_gpus_of_two_kinds_and_names_may_differ() -> None:
    check_cards(rows_with(H100, H100, A100_40, A100_80), Placement((0, 1), (2, 3)))
    check_cards(rows_of("xxyy"), Placement((0, 1), (2, 3)))


@pytest.mark.parametrize("num_items", [0, 1, 127, 128, 129, 1000, 1280])
@pytest.mark.parametrize("num_ranks", WORLDS)
def test_chunks_are_whole_and_cover_every_item_once(num_items: int, num_ranks: int) -> None:
    whole = [(start, min(start + 128, num_items)) for start in range(0, num_items, 128)]
    shares = [chunks_of_rank(num_items, 128, rank, num_ranks) for rank in range(num_ranks)]
    # The bounds are those of a world of one; joined in the order of ranks they keep the order.
    assert [chunk for share in shares for chunk in share] == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("num_ranks", "expected"),
    [
        (2, [[(0, 4), (4, 8)], [(8, 10)]]),
        (3, [[(0, 4)], [(4, 8)], [(8, 10)]]),
        (4, [[(0, 4)], [(4, 8)], [(8, 10)], []]),
    ],
)
def test_chunks_of_each_rank(num_ranks: int, expected: list[list[tuple[int, int]]]) -> None:
    assert [chunks_of_rank(10, 4, rank, num_ranks) for rank in range(num_ranks)] == expected
