"""What a training would do in a world of any size, without starting it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cotrain_dist.config import Config, PlacementConfig, resolve_role
from cotrain_dist.data.bad_images import describe_bad
from cotrain_dist.data.copies import describe_left_out
from cotrain_dist.data.sources.skipped import describe_skipped
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.data.stream import pixels_of
from cotrain_dist.method.placement import Placement, RankRow, chunks_of_rank, place
from cotrain_dist.method.shares import cut_epoch
from cotrain_dist.method.splits import Split
from cotrain_dist.method.steps import (
    consistency_shares,
    num_consistency_steps,
    num_steps_of,
    spread,
)
from cotrain_dist.models import build_model
from cotrain_dist.planning.probe import (
    seconds_per_labeled_image,
    seconds_per_trained_image,
    take_steps,
)
from cotrain_dist.planning.tables import Plan, RankPlan, RolePlan
from cotrain_dist.runtime.accelerator import start_alone
from cotrain_dist.runtime.determinism import device_name
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.norm import has_batch_norm
from cotrain_dist.training.setup import check_all_names, check_table, model_costs, split_table_of
from cotrain_dist.training.student import Student, build_student
from cotrain_dist.types import ROLES, Role

FLOAT_BYTES = 4
FEW_IMAGES = 16
"""Below so many, the mean and variance that batch normalization takes are mostly chance."""

NUM_PROBE_IMAGES = 4


def plan_world(
    config: Config, num_ranks: int, num_nodes: int, device: str, *, measure: bool = False
) -> Plan:
    """The plan of a training on equal nodes, after the checks that the training would make.

    `measure` times a few steps of each model on the device that the training would use here. Raises
    UserError as `train` does.
    """
    check_all_names(config)
    table = split_table_of(config)
    per_node = num_ranks // num_nodes
    rows = [
        RankRow(rank, f"node{rank // per_node}", f"{device} {rank % per_node}")
        for rank in range(num_ranks)
    ]
    cost_a, cost_b = model_costs(config)
    placement = place(rows, cost_a=cost_a, cost_b=cost_b, ranks_a=config.placement.ranks_a)
    check_table(table, config, placement)
    images = Images(table, pixels_of(replace(config.data, cache="off"), table.listing))
    # Before any model is built: what importing alone has cost is part of every rank.
    process_bytes = resident_bytes()
    # A world of one lacks the ranks that placement may name, and a login node may have no GPU.
    alone = replace(config, placement=PlacementConfig(), tracking="none")
    if not measure:
        alone = replace(alone, device="cpu", precision="fp32")
    with start_alone(alone) as rt:
        ctx = RunContext(alone, rt, RunDirectory(Path(config.output_dir)), Reporter(show=False))
        roles = {role: plan_role(role, images, ctx, measure=measure) for role in ROLES}
        measured_on = device_name(rt.device) if measure else None
    return make_plan(config, table, rows, placement, roles, process_bytes, measured_on)


def make_plan(
    config: Config,
    table: SplitTable,
    rows: Sequence[RankRow],
    placement: Placement,
    roles: dict[Role, RolePlan],
    process_bytes: int,
    measured_on: str | None,
) -> Plan:
    """The plan of a training from what its models need; process_bytes: of a rank without one."""
    num_measured = sum(len(table.sample_ids(split)) for split in (Split.T, Split.V))
    vote_bytes = 4 * len(ROLES) * len(table.sample_ids(Split.U))
    measure_bytes = FLOAT_BYTES * len(ROLES) * num_measured * len(table.class_names)
    gathered = measure_bytes + (vote_bytes if config.exchange != "none" else 0)
    if config.consistency.needs_peer:
        gathered += FLOAT_BYTES * sum(own.num_parameters for own in roles.values())
    ranks = [plan_rank(row, placement, roles, config, table, process_bytes) for row in rows]
    return Plan(
        roles=roles,
        ranks=ranks,
        vote_bytes=vote_bytes,
        measure_bytes=measure_bytes,
        gradient_bytes={
            role: FLOAT_BYTES * own.num_parameters if len(placement.ranks_of(role)) > 1 else 0
            for role, own in roles.items()
        },
        between_nodes_bytes=bytes_between_nodes(rows, placement, roles, gathered),
        epoch_seconds=seconds_per_epoch(roles, placement, config, table) if measured_on else None,
        measured_on=measured_on,
        num_marked=config.data.audit_images,
        warnings=(
            *describe_skipped(config.data),
            *describe_bad(table.listing),
            *describe_left_out(table.listing, table.splits),
            *_say_when_equal(config),
            *_say_where_norms_see_few(ranks, roles, config),
        ),
    )


def _say_when_equal(config: Config) -> list[str]:
    """A line where both models are of one architecture."""
    names = {resolve_role(config, role.value).name for role in ROLES}
    if len(names) > 1:
        return []
    return [
        f"A and B are both {names.pop()}; two architectures see an image in two ways, which is "
        "worth more (docs/two-different-models.md)"
    ]


def _say_where_norms_see_few(
    ranks: Sequence[RankPlan], roles: Mapping[Role, RolePlan], config: Config
) -> list[str]:
    """A line for each model whose batch normalization sees few images since its steps are cut."""
    lines = []
    for role, own in roles.items():
        batches = [rank.largest_batch for rank in ranks if role in rank.roles]
        num_seen = sum(batches) if config.train.norm == "sync" else min(batches)
        # Who asked for small steps, on one rank, sees them in the settings.
        sees = own.has_batch_norm and config.train.norm != "frozen"
        if sees and num_seen < min(FEW_IMAGES, config.train.batch_size):
            way_out = "give a larger train.batch_size or fewer train.accumulation_steps"
            if len(batches) > 1 and config.train.norm == "local":
                way_out += ", or train.norm sync"
            lines.append(
                f"{role.name}: batch normalization sees {num_seen} of the "
                f"{config.train.batch_size} images of a step, which makes another training of it, "
                f"and below about {FEW_IMAGES} a noisy one; {way_out}"
            )
    return lines


def bytes_between_nodes(
    rows: Sequence[RankRow],
    placement: Placement,
    roles: Mapping[Role, RolePlan],
    gathered_bytes: int,
) -> int:
    """Sent over the links between nodes in an epoch of Step 2 with R empty.

    What is gathered passes each of the links once. Gradients go round a ring over the ranks of a
    role, 2 (k - 1) / k of their size a link, where the role lies on several nodes.
    """
    node_of = {row.global_rank: row.node for row in rows}
    total = (len(set(node_of.values())) - 1) * gathered_bytes
    for role, own in roles.items():
        ranks = placement.ranks_of(role)
        num_nodes, k = len({node_of[rank] for rank in ranks}), len(ranks)
        if num_nodes > 1:
            step_bytes = 2 * (k - 1) * FLOAT_BYTES * own.num_parameters // k
            total += num_nodes * step_bytes * own.steps_cotrain[0]
    return total


def plan_rank(
    row: RankRow,
    placement: Placement,
    roles: dict[Role, RolePlan],
    config: Config,
    table: SplitTable,
    process_bytes: int,
) -> RankPlan:
    """One rank's share, from the functions that the training cuts it with."""
    held = placement.roles_of(row.global_rank)
    num_ranks = len(placement.ranks_of(held[0]))
    role_rank = placement.role_rank(held[0], row.global_rank)
    shards = {
        split: chunks_of_rank(
            len(table.sample_ids(split)), config.pool.batch_size, role_rank, num_ranks
        )
        for split in (Split.U, Split.T)
    }
    # A forward pass is of one shard at a time.
    per_rank = spread(config.train.batch_size, config.train.exact_elastic or num_ranks)
    largest = per_rank[0 if config.train.exact_elastic else role_rank]
    batch = spread(largest, config.train.accumulation_steps)[0]
    # Measured: 13 and 17 % below two real ranks, as allocators keep more than they hand out. Of two
    # models in one process, one trains at a time: activations do not add up, states do.
    memory = process_bytes + batch * max(roles[role].image_bytes for role in held)
    for role in held:
        memory += roles[role].state_bytes
        if config.consistency.needs_peer:
            memory += FLOAT_BYTES * roles[role.peer].num_parameters
        memory += FLOAT_BYTES * roles[role].num_parameters if num_ranks > 1 else 0  # DDP's buckets
    return RankPlan(
        row=row,
        roles=held,
        role_rank=role_rank,
        num_pool_images=sum(stop - start for start, stop in shards[Split.U]),
        num_pool_chunks=len(shards[Split.U]),
        num_test_images=sum(stop - start for start, stop in shards[Split.T]),
        largest_batch=batch,
        memory_bytes=memory,
    )


def plan_role(role: Role, images: Images, ctx: RunContext, *, measure: bool) -> RolePlan:
    """One model's numbers: it is built and trained for a few steps as a training would do it."""
    config, table = ctx.config, images.table
    own = resolve_role(config, role.value)
    num_own = len(table.labeled(role, config.pretrain.labels))
    num_labeled = len(table.labeled(role, config.labels))
    # R has between none and all of U, and only training can tell: hence two numbers of steps.
    num_pool = len(table.sample_ids(Split.U)) if config.exchange != "none" else 0
    # No download, no minutes of compiling; the probes cut their steps themselves.
    is_head = own.model.train == "head"
    first = replace(own.model, pretrained=False, init_from=None, train="all")
    # Whole steps: micro-shards change no number of them.
    own = replace(own, model=first, compile=False, train=replace(own.train, exact_elastic=0))
    model = build_model(own, role, table.class_names)
    student = build_student(role, model, own, ctx.runtime)
    if is_head:
        return _plan_head(student, num_labeled)
    train_seconds = label_seconds = None
    if measure:
        size = own.train.batch_size
        train_seconds = seconds_per_trained_image(student, size, images, ctx)
        label_seconds = seconds_per_labeled_image(student, config.pool.batch_size, images, ctx)
    state_bytes, image_bytes = _probe_memory(student, images, ctx)
    return RolePlan(
        role=role,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_labeled=num_labeled,
        steps_pretrain=num_steps_of(num_own, own.train.batch_size),
        steps_cotrain=(
            _steps_of_step_two(num_labeled, 0, table, config),
            _steps_of_step_two(num_labeled, num_pool, table, config),
        ),
        state_bytes=state_bytes,
        image_bytes=image_bytes,
        has_batch_norm=has_batch_norm(model),
        train_seconds=train_seconds,
        label_seconds=label_seconds,
    )


def _steps_of_step_two(
    num_labeled: int, num_selected: int, table: SplitTable, config: Config
) -> int:
    """Steps of an epoch of Step 2 over L and an R of so many images."""
    train, ratio = config.train, config.consistency.ratio
    if not config.consistency.is_on:
        size, least = train.batch_size, train.least_labeled_fraction
        return cut_epoch(num_labeled, num_selected, size, least).num_steps
    num_pool = len(table.sample_ids(Split.U))
    return num_consistency_steps(num_labeled + num_selected, num_pool, train.batch_size, ratio)


def _plan_head(student: Student, num_labeled: int) -> RolePlan:
    """A frozen model: its steps are those of a solver, and no image keeps anything for later."""
    return RolePlan(
        role=student.role,
        num_parameters=sum(p.numel() for p in student.whole.parameters()),
        num_labeled=num_labeled,
        steps_pretrain=1,
        steps_cotrain=(1, 1),
        state_bytes=_num_bytes((*student.whole.parameters(), *student.whole.buffers())),
        image_bytes=0,
    )


def _probe_memory(student: Student, images: Images, ctx: RunContext) -> tuple[int, int]:
    """Bytes of state after a step, and bytes that each image keeps for the backward pass."""
    kept: dict[int, int] = {}
    model = student.model
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # By storage: views that are saved several times hold their memory once, weights hold it
        # anyway.
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        take_steps(student, NUM_PROBE_IMAGES, 1, images, ctx)
    states = [
        value
        for entries in student.optimizer.state.values()
        for value in entries.values()
        if isinstance(value, Tensor)
    ]
    parameter_bytes = _num_bytes(model.parameters())
    # A gradient is as large as its parameter; the step has thrown it away already.
    state_bytes = 2 * parameter_bytes + _num_bytes(model.buffers()) + _num_bytes(states)
    if student.ema is not None:
        state_bytes += parameter_bytes + _num_bytes(model.buffers())
    num_images = min(NUM_PROBE_IMAGES, len(images.table.labeled(student.role, "own")))
    return state_bytes, sum(kept.values()) // num_images


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seconds_per_epoch(
    roles: Mapping[Role, RolePlan], placement: Placement, config: Config, table: SplitTable
) -> float:
    """Of an epoch of Step 2 with R empty, if ranks share work evenly; the roles at one time."""
    num_pool = len(table.sample_ids(Split.U)) if config.exchange != "none" else 0
    by_role = []
    for role, own in roles.items():
        if own.train_seconds is None or own.label_seconds is None:
            continue  # heads: an epoch is a matter of seconds
        num_learned, num_asked = own.num_labeled, num_pool
        if config.consistency.is_on:
            size, num_steps = config.train.batch_size, own.steps_cotrain[0]
            _, num_unlabeled = consistency_shares(size, config.consistency.ratio)
            num_teachers = 2 if config.consistency.teacher == "both" else 1
            num_learned = num_steps * size
            num_asked += num_steps * num_unlabeled * num_teachers
        seconds = num_learned * own.train_seconds + num_asked * own.label_seconds
        by_role.append(seconds / len(placement.ranks_of(role)))
    # One process trains both models in turn; on ranks of their own they train at one time.
    return sum(by_role) if placement.ranks_a == placement.ranks_b else max(by_role, default=0.0)
