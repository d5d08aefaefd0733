"""The plan of a training, and its tables for a terminal."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from cotrain_dist.method.placement import RankRow
from cotrain_dist.planning.promises import promise_line
from cotrain_dist.types import Role

MEBIBYTE = 2**20


@dataclass(frozen=True)
class RolePlan:
    """What one model meets."""

    role: Role
    num_parameters: int
    num_labeled: int
    """Images of L in Step 2."""
    steps_pretrain: int
    steps_cotrain: tuple[int, int]
    """Least (R empty) and most (all of U in R) steps of an epoch of Step 2."""
    state_bytes: int
    """Weights, buffers, gradients and optimizer on each rank."""
    image_bytes: int
    """Kept for the backward pass by each image of a micro-batch."""
    has_batch_norm: bool = False
    """Whether it trains layers that see the images of a micro-batch together."""
    train_seconds: float | None = None
    """Of one image in training, on this machine; None unless measured."""
    label_seconds: float | None = None
    """Of one image of U."""


@dataclass(frozen=True)
class RankPlan:
    """What one rank does."""

    row: RankRow
    roles: tuple[Role, ...]
    role_rank: int
    num_pool_images: int
    num_pool_chunks: int
    num_test_images: int
    largest_batch: int
    """Images of its largest micro-batch."""
    memory_bytes: int


@dataclass(frozen=True)
class Plan:
    """A whole world."""

    roles: dict[Role, RolePlan]
    ranks: list[RankPlan]
    vote_bytes: int
    """Received by each rank at an exchange: both models' votes."""
    measure_bytes: int
    """Received by each rank when T (and V) is measured: both models' probabilities."""
    gradient_bytes: dict[Role, int]
    """Of one step's gradients, reduced over the ranks of the role."""
    between_nodes_bytes: int
    """Sent over the links between nodes in an epoch of Step 2 with R empty."""
    epoch_seconds: float | None = None
    """Of such an epoch; None unless measured."""
    measured_on: str | None = None
    """The kind of device that it was measured on."""
    num_marked: int = 0
    """Images of U whose labels are kept for an audit."""
    warnings: tuple[str, ...] = ()
    """Lines about images, models and batches."""


def plan_tables(plan: Plan) -> Iterator[Table | str]:
    """Warnings, a table of ranks, one of models, lines on what travels and what a promise needs."""
    yield from (f"warning: {line}" for line in plan.warnings)
    yield _rank_table(plan)
    yield _role_table(plan)
    gradients = ", ".join(
        f"{role.name} {num_bytes / MEBIBYTE:.1f} MiB"
        for role, num_bytes in plan.gradient_bytes.items()
    )
    yield (
        f"Each rank receives {plan.vote_bytes / MEBIBYTE:.2f} MiB of votes at an exchange, "
        f"{plan.measure_bytes / MEBIBYTE:.2f} MiB of probabilities when T is measured, and the "
        f"exchange itself, 16 bytes per image of R. Gradients reduced a step: {gradients}."
    )
    if len({rank.row.node for rank in plan.ranks}) > 1:
        yield (
            f"An epoch of Step 2 with R empty sends {plan.between_nodes_bytes / MEBIBYTE:.2f} MiB "
            "between the nodes."
        )
    if plan.epoch_seconds is not None:
        yield (
            f"An epoch of Step 2 with R empty takes about {plan.epoch_seconds:.0f} s at the speed "
            f"measured here on {plan.measured_on}, if ranks do not slow each other down."
        )
    yield promise_line(plan.num_marked)


def _rank_table(plan: Plan) -> Table:
    table = Table(title="Ranks")
    for title in ("rank", "node", "device", "role", "images of U", "chunks", "of T", "batch"):
        table.add_column(title)
    table.add_column("memory, MiB", justify="right")
    for rank in plan.ranks:
        table.add_row(
            str(rank.row.global_rank),
            rank.row.node,
            rank.row.device,
            " ".join(f"{role.name}{rank.role_rank}" for role in rank.roles),
            str(rank.num_pool_images),
            str(rank.num_pool_chunks),
            str(rank.num_test_images),
            str(rank.largest_batch),
            f"{rank.memory_bytes / MEBIBYTE:.0f}",
        )
    return table


def _role_table(plan: Plan) -> Table:
    table = Table(title="Models")
    headings = ("model", "parameters", "images of L", "steps: pretrain", "Step 2")
    for title in (*headings, "train images/s", "label images/s"):
        table.add_column(title)
    for role, own in plan.roles.items():
        least, most = own.steps_cotrain
        table.add_row(
            role.name,
            f"{own.num_parameters:,}",
            str(own.num_labeled),
            str(own.steps_pretrain),
            str(least) if least == most else f"{least} to {most}",
            "-" if own.train_seconds is None else f"{1 / own.train_seconds:.0f}",
            "-" if own.label_seconds is None else f"{1 / own.label_seconds:.0f}",
        )
    return table
