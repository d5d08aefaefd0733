"""Which ranks hold which model, and which chunks of U and T each of them passes over."""

from collections.abc import Sequence
from dataclasses import dataclass

from cotrain_dist.errors import UserError
from cotrain_dist.method.steps import spread
from cotrain_dist.types import ROLES, Role


@dataclass(frozen=True)
class RankRow:
    """Where one process runs."""

    global_rank: int
    node: str
    device: str
    """`cpu`, or `cuda` and what tells this GPU apart."""
    card: str = ""
    """Name of the GPU."""
    capability: str = ""
    """Its compute capability: the kind of arithmetic unit, which decides the bits of results."""


@dataclass(frozen=True)
class Placement:
    """Global ranks of each role, in the order of their role rank."""

    ranks_a: tuple[int, ...]
    ranks_b: tuple[int, ...]

    def ranks_of(self, role: Role) -> tuple[int, ...]:
        """Global ranks of a role; the first is its lead rank."""
        return self.ranks_a if role is Role.A else self.ranks_b

    def roles_of(self, global_rank: int) -> tuple[Role, ...]:
        """The roles a rank holds: both in a world of one, else one."""
        return tuple(role for role in ROLES if global_rank in self.ranks_of(role))

    def role_rank(self, role: Role, global_rank: int) -> int:
        """Index of a rank within its role group."""
        return self.ranks_of(role).index(global_rank)


def place(
    rows: Sequence[RankRow], *, cost_a: float, cost_b: float, ranks_a: Sequence[int] | None = None
) -> Placement:
    """Ranks of A and B: both on a single rank; else halves, the odd rank to the costlier model.

    Ranks are cut in the order of their nodes, so that a role group stays within a node where the
    shape allows it. `ranks_a` overrides. Costs are operations per image; only their order counts,
    and A gets the odd rank of a tie. Raises UserError for a `ranks_a` that does not fit the world.
    """
    world = sorted(row.global_rank for row in rows)
    if len(world) == 1:
        # A lone process trains both models, but a rank that is not there is still a mistake.
        _check_ranks_a(ranks_a, world)
        return Placement((world[0],), (world[0],))
    if ranks_a is not None:
        _check_ranks_a(ranks_a, world)
        return Placement(
            tuple(sorted(ranks_a)), tuple(rank for rank in world if rank not in ranks_a)
        )
    # All ranks compute this from the same gathered rows, so nothing needs to be agreed on.
    by_node = _in_node_order(rows)
    larger, smaller = spread(len(by_node), 2)
    num_a = larger if cost_a >= cost_b else smaller
    # Ascending within a role: a process group numbers its ranks that way, whatever it is given.
    return Placement(tuple(sorted(by_node[:num_a])), tuple(sorted(by_node[num_a:])))


def _in_node_order(rows: Sequence[RankRow]) -> list[int]:
    ordered = sorted(rows, key=lambda row: row.global_rank)
    # Some launchers deal ranks to the nodes in turn (0 and 2 here, 1 and 3 there).
    nodes = list(dict.fromkeys(row.node for row in ordered))
    return [row.global_rank for node in nodes for row in ordered if row.node == node]


def _check_ranks_a(ranks_a: Sequence[int] | None, world: Sequence[int]) -> None:
    if ranks_a is None:
        return
    strangers = sorted(set(ranks_a) - set(world))
    if strangers or len(set(ranks_a)) != len(ranks_a):
        raise UserError(
            "placement.ranks_a",
            list(ranks_a),
            f"must name ranks of this world, {world[0]} to {world[-1]}, once each",
            "leave it out to give each role half of the ranks",
        )
    if len(world) > 1 and not 0 < len(ranks_a) < len(world):
        raise UserError(
            "placement.ranks_a",
            list(ranks_a),
            f"must leave each role a rank of the {len(world)}",
            "leave it out to give each role half of the ranks",
        )


def check_devices(rows: Sequence[RankRow]) -> None:
    """Raise UserError where two ranks share a GPU."""
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        if not row.device.startswith("cuda"):
            continue
        other = seen.setdefault((row.node, row.device), row.global_rank)
        if other != row.global_rank:
            raise UserError(
                "device",
                row.device,
                f"ranks {other} and {row.global_rank} on {row.node} would share this GPU",
                "start as many processes as there are GPUs, or give --device cpu",
            )


def check_cards(rows: Sequence[RankRow], placement: Placement) -> None:
    """Raise UserError where the ranks of one role have GPUs of several kinds.

    Each rank takes its optimizer's steps by itself: kinds that round differently would drift apart,
    and nothing would notice. Roles of two kinds are well.
    """
    by_rank = {row.global_rank: row for row in rows}
    for role in ROLES:
        own = [by_rank[rank] for rank in placement.ranks_of(role)]
        for row in own:
            if row.capability != own[0].capability:
                raise UserError(
                    "placement.ranks_a",
                    list(placement.ranks_a),
                    f"role {role.name} would train on GPUs of two kinds: {own[0].card} "
                    f"(rank {own[0].global_rank}, {own[0].node}) and {row.card} "
                    f"(rank {row.global_rank}, {row.node}), whose copies of the model would part",
                    "give each role GPUs of one kind, or ask the scheduler for nodes of one kind",
                )


def chunks_of_rank(
    num_items: int, batch_size: int, role_rank: int, num_ranks: int
) -> list[tuple[int, int]]:
    """The chunks [start, stop) that a rank of a role passes over: whole, contiguous, in order.

    The bounds follow from the index alone, never from the number of ranks, so that every forward
    pass has the same images, and gives the same bits, in every world.

    >>> chunks_of_rank(10, 4, role_rank=1, num_ranks=2)
    [(8, 10)]
    """
    starts = range(0, num_items, batch_size)
    sizes = spread(len(starts), num_ranks)
    # With more ranks than chunks some get none: they bring no rows, but call each collective.
    first = sum(sizes[:role_rank])
    mine = starts[first : first + sizes[role_rank]]
    return [(start, min(start + batch_size, num_items)) for start in mine]
