"""What a training would do in a world of any size, without starting it."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotrain_dist.config import Config, ModelConfig, augments, resolve_model
from cotrain_dist.data.groups import GroupTable
from cotrain_dist.data.sources import ReadImage, image_reader
from cotrain_dist.data.stream import stream_batches, train_transform
from cotrain_dist.method.placement import Placement, RankRow, chunks_of_rank, place
from cotrain_dist.method.splits import Group
from cotrain_dist.method.steps import num_steps_of, spread
from cotrain_dist.models import build_model, build_optimizer, preprocessing_of
from cotrain_dist.reporting.plan_tables import Plan, RankPlan, RolePlan
from cotrain_dist.training.experiment import labeled_samples
from cotrain_dist.training.train import check_all_names, check_table, group_table_of, model_costs
from cotrain_dist.types import ROLES, Role

FLOAT_BYTES = 4
NUM_PROBE_IMAGES = 4
NUM_TIMED_STEPS = 3


def plan_world(
    config: Config, num_ranks: int, num_nodes: int, device: str, *, measure: bool = False
) -> Plan:
    """The plan of a training on equal nodes, after the checks that the training would make.

    `measure` times a few steps of each model on this machine. Raises UserError as `train` does.
    """
    check_all_names(config)
    table = group_table_of(config)
    per_node = num_ranks // num_nodes
    rows = [
        RankRow(rank, f"node{rank // per_node}", f"{device} {rank % per_node}")
        for rank in range(num_ranks)
    ]
    cost_a, cost_b = model_costs(config)
    placement = place(rows, cost_a=cost_a, cost_b=cost_b, ranks_a=config.placement.ranks_a)
    check_table(table, config, placement)
    return make_plan(
        config, table, image_reader(config.data, table.listing), rows, placement, measure=measure
    )


def make_plan(
    config: Config,
    table: GroupTable,
    read: ReadImage,
    rows: Sequence[RankRow],
    placement: Placement,
    *,
    measure: bool,
) -> Plan:
    """The plan of a training; `measure` times a few steps of each model on this machine."""
    # Before any model is built: what importing alone has cost is part of every rank.
    process_bytes = resident_bytes()
    roles = {role: plan_role(role, config, table, read, measure=measure) for role in ROLES}
    num_measured = sum(len(table.sample_ids(group)) for group in (Group.T, Group.V))
    vote_bytes = 4 * len(ROLES) * len(table.sample_ids(Group.U))
    measure_bytes = FLOAT_BYTES * len(ROLES) * num_measured * len(table.class_names)
    gathered = measure_bytes + (vote_bytes if config.exchange != "none" else 0)
    return Plan(
        roles=roles,
        ranks=[plan_rank(row, placement, roles, config, table, process_bytes) for row in rows],
        vote_bytes=vote_bytes,
        measure_bytes=measure_bytes,
        gradient_bytes={
            role: FLOAT_BYTES * own.num_parameters if len(placement.ranks_of(role)) > 1 else 0
            for role, own in roles.items()
        },
        between_nodes_bytes=bytes_between_nodes(rows, placement, roles, gathered),
        epoch_seconds=seconds_per_epoch(roles, placement, config, table) if measure else None,
    )


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
    table: GroupTable,
    process_bytes: int,
) -> RankPlan:
    """One rank's share, from the functions that the training cuts it with."""
    held = placement.roles_of(row.global_rank)
    num_ranks = len(placement.ranks_of(held[0]))
    role_rank = placement.role_rank(held[0], row.global_rank)
    shards = {
        group: chunks_of_rank(
            len(table.sample_ids(group)), config.pool.chunk_size, role_rank, num_ranks
        )
        for group in (Group.U, Group.T)
    }
    per_rank = spread(config.train.batch_size, num_ranks)[role_rank]
    batch = spread(per_rank, config.train.accumulation_steps)[0]
    memory = process_bytes + batch * max(roles[role].image_bytes for role in held)
    for role in held:
        memory += roles[role].state_bytes
        memory += FLOAT_BYTES * roles[role].num_parameters if num_ranks > 1 else 0  # DDP's buckets
    return RankPlan(
        row=row,
        roles=held,
        role_rank=role_rank,
        num_pool_images=sum(stop - start for start, stop in shards[Group.U]),
        num_pool_chunks=len(shards[Group.U]),
        num_test_images=sum(stop - start for start, stop in shards[Group.T]),
        largest_batch=batch,
        memory_bytes=memory,
    )


def plan_role(
    role: Role, config: Config, table: GroupTable, read: ReadImage, *, measure: bool
) -> RolePlan:
    """One model's numbers; builds it, and takes a step with a few images to see what it keeps."""
    own = resolve_model(config, role.value)
    model_config: ModelConfig = own.model_a if role is Role.A else own.model_b
    num_own = len(labeled_samples(table, role, config.pretrain.labels))
    num_labeled = len(labeled_samples(table, role, config.labels))
    num_pool = len(table.sample_ids(Group.U)) if config.exchange != "none" else 0
    model_config = replace(model_config, pretrained=False, init_from=None)
    model = build_model(model_config, role, table.class_names, own.data.image_size, config.seed)
    if own.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    train_seconds = label_seconds = None
    if measure:
        train_seconds, label_seconds = _time_model(model, role, own, table, read)
    state_bytes, image_bytes = _probe_memory(model, own)
    size = own.train.batch_size
    return RolePlan(
        role=role,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_labeled=num_labeled,
        steps_pretrain=num_steps_of(num_own, size),
        steps_cotrain=(num_steps_of(num_labeled, size), num_steps_of(num_labeled + num_pool, size)),
        state_bytes=state_bytes,
        image_bytes=image_bytes,
        train_seconds=train_seconds,
        label_seconds=label_seconds,
    )


def _probe_memory(model: nn.Module, own: Config) -> tuple[int, int]:
    """Bytes of state after a step, and bytes that each image keeps for the backward pass."""
    kept: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    side = own.data.image_size
    images = torch.zeros(NUM_PROBE_IMAGES, 3, side, side)
    optimizer = build_optimizer(model, own.train, own.pretrain.learning_rate)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = F.cross_entropy(model.train()(images), torch.zeros(len(images), dtype=torch.int64))
    loss.backward()
    optimizer.step()
    states = [
        value
        for entries in optimizer.state.values()
        for value in entries.values()
        if isinstance(value, Tensor)
    ]
    weights = [*model.parameters(), *model.buffers()]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    state_bytes = sum(t.numel() * t.element_size() for t in [*weights, *gradients, *states])
    return state_bytes, sum(kept.values()) // NUM_PROBE_IMAGES


def _time_model(
    model: nn.Module, role: Role, own: Config, table: GroupTable, read: ReadImage
) -> tuple[float, float]:
    """Seconds an image in training and in labeling, decoding included, on this machine's CPU."""
    samples = labeled_samples(table, role, "own")
    size = min(own.train.batch_size, len(samples))
    preprocessing = preprocessing_of(model, own.data.image_size, own.data.center_crop_fraction)
    transform = preprocessing.eval_transform()
    if augments(own.data):
        transform = train_transform(own.data, preprocessing.mean, preprocessing.std)
    optimizer = build_optimizer(model, own.train, own.pretrain.learning_rate)
    batches = [samples.sample_ids[:size]] * (NUM_TIMED_STEPS + 1)
    seconds = []
    model.train()
    started = time.perf_counter()
    for images in stream_batches(read, transform, batches, key=("plan",)):
        F.cross_entropy(model(images), samples.targets[:size]).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    label_seconds = []
    model.eval()
    with torch.no_grad():
        started = time.perf_counter()
        for images in stream_batches(read, preprocessing.eval_transform(), batches):
            model(images)
            label_seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
    return _median(seconds[1:]) / size, _median(label_seconds[1:]) / size  # the first warms up


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seconds_per_epoch(
    roles: Mapping[Role, RolePlan], placement: Placement, config: Config, table: GroupTable
) -> float:
    """Of an epoch of Step 2 with R empty, if ranks share work evenly; the roles at one time."""
    num_pool = len(table.sample_ids(Group.U)) if config.exchange != "none" else 0
    by_role = []
    for role, own in roles.items():
        assert own.train_seconds is not None
        assert own.label_seconds is not None
        seconds = own.num_labeled * own.train_seconds + num_pool * own.label_seconds
        by_role.append(seconds / len(placement.ranks_of(role)))
    return sum(by_role) if placement.ranks_a == placement.ranks_b else max(by_role)
