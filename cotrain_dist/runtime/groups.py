"""The groups of ranks: all of them, and those of each role."""

from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

from cotrain_dist.method.placement import Placement
from cotrain_dist.runtime.collectives import RankGroup
from cotrain_dist.types import ROLES, Role


def control_group(num_ranks: int, global_rank: int, limit: timedelta) -> RankGroup:
    """Collective over all ranks: the group of all of them, on the CPU."""
    ranks = tuple(range(num_ranks))
    if num_ranks == 1:
        return RankGroup("control", ranks, 0)
    # gloo on GPUs as well: torch wants one order of collectives over several NCCL groups, and what
    # crosses between the roles is bytes on the CPU.
    return RankGroup("control", ranks, global_rank, new_group(ranks, "gloo", limit, "control"))


def new_group(
    ranks: Sequence[int], backend: str | None, limit: timedelta, name: str
) -> dist.ProcessGroup | None:
    """Collective over all ranks. The limit is given each time: groups do not inherit it."""
    handle = dist.new_group(list(ranks), backend=backend, timeout=limit, group_desc=name)
    return handle if isinstance(handle, dist.ProcessGroup) else None  # a stranger gets a number


def build_role_groups(
    placement: Placement, control: RankGroup, limit: timedelta, backend: str | None
) -> dict[Role, RankGroup]:
    """Collective over all ranks: every rank builds every group, in one order, as torch demands."""
    groups = {}
    for role in ROLES:
        ranks = placement.ranks_of(role)
        handle = None
        if len(ranks) > 1:
            handle = new_group(ranks, backend, limit, f"role {role.name}")
        if control.index in ranks:
            groups[role] = RankGroup(f"role {role.name}", ranks, ranks.index(control.index), handle)
    return groups
