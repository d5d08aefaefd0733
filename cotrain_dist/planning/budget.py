"""`train --time`: image size and epochs that fit into a time, from steps measured at the start."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cotrain_dist.config import Config, RoleConfig, resolve_role
from cotrain_dist.config.text import with_settings
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import UserError
from cotrain_dist.method.budget import Choice, Costs, choose, seconds_at, sizes_up_to
from cotrain_dist.method.placement import Placement
from cotrain_dist.method.splits import Split
from cotrain_dist.method.steps import num_consistency_steps
from cotrain_dist.models import build_model
from cotrain_dist.planning.probe import seconds_per_labeled_image, seconds_per_trained_image
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import (
    RankGroup,
    all_gather_json,
    barrier,
    broadcast_json,
    together,
)
from cotrain_dist.runtime.deadline import Deadline
from cotrain_dist.runtime.stop import STOP
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.student import build_student
from cotrain_dist.types import ROLES, Role

NUM_PROBED = 16
"""Images of a measured step: many enough for a figure that is rather too large than too small."""

OF_WHAT_IS_LEFT = 0.85
"""What is planned of the time that is left: other work may come to the same machine."""

SELECTED_SHARE = 0.1
"""Of U, guessed, that the rules other than means of both models select."""


@dataclass(frozen=True)
class Speed:
    """Seconds for an image on one rank, by image size, the smaller size first."""

    train: list[tuple[int, float]]
    label: list[tuple[int, float]]


def fit_to(deadline: Deadline, given: str) -> Callable[[RunContext, Images], RunContext]:
    """What `training.train` calls once the images are known; given: the time, as the user wrote it.

    The function measures, chooses, tells, sets the runtime's deadline, and returns the context with
    the settings that fit. It is collective over all ranks; raises UserError on all of them where
    nothing fits.
    """

    def fit(ctx: RunContext, images: Images) -> RunContext:
        together(lambda: _require_planned(ctx.config), ctx.runtime.control)
        sizes, begins_at = sizes_of(ctx.config), time.monotonic()
        speeds = measured_speeds((sizes[-1], sizes[0]), images, ctx)
        left = OF_WHAT_IS_LEFT * deadline.left
        costs = [
            costs_at(size, speeds, ctx.config, ctx.runtime.placement, images.table)
            for size in sizes
        ]
        usual = ctx.config.pretrain.num_epochs, ctx.config.cotrain.num_epochs
        found = broadcast_json(_as_json(choose(costs, usual, left)), ctx.runtime.control)
        choice = together(lambda: _require(found, costs[-1], left, given), ctx.runtime.control)
        ctx.reporter.say(told(choice, ctx.config, given, deadline.left))
        # Of all the time that is left: the choice was cautious.
        before = next(own.before for own in costs if own.image_size == choice.image_size)
        seconds = before + choice.step_one_share * max(0.0, deadline.left - before)
        ends_at = time.monotonic() + seconds
        ctx.runtime.deadline = replace(
            deadline, step_one_begins_at=begins_at, step_one_ends_at=ends_at
        )
        return replace(ctx, config=settled(choice, ctx.config))

    return fit


def _require_planned(config: Config) -> None:
    if config.cotrain.final_epochs:
        raise UserError(
            "cotrain.final_epochs",
            config.cotrain.final_epochs,
            "are not planned by --time",
            "leave out one of the two",
        )


def _as_json(choice: Choice | None) -> dict[str, float] | None:
    return None if choice is None else vars(choice)


def _require(found: dict[str, int] | None, least: Costs, left: float, given: str) -> Choice:
    if found is not None:
        return Choice(**found)
    missing = (least.least - left) / OF_WHAT_IS_LEFT
    raise UserError(
        "--time",
        given,
        f"the shortest training, at {least.image_size} pixels, takes about {least.least:.0f} s, "
        f"and {max(left, 0.0):.0f} s can be planned with",
        f"give about {missing / 60:.0f} minutes more, fewer images, or a smaller model",
    )


def sizes_of(config: Config) -> list[int]:
    """The image sizes to choose from, the largest first: that of the settings is the largest."""
    return sizes_up_to(max(resolve_role(config, role.value).image_size for role in ROLES))


def at_size(size: int, config: Config) -> Config:
    """The settings with images of a size; a model whose own are smaller keeps them."""
    own = {role: min(size, resolve_role(config, role.value).image_size) for role in ROLES}
    common = own[Role.A] if len(set(own.values())) == 1 else None
    settings: dict[str, object] = {"data.image_size": common or config.data.image_size}
    for role in ROLES:
        settings[f"model_{role.value}.image_size"] = None if common else own[role]
    return with_settings(config, settings)


def settled(choice: Choice, config: Config) -> Config:
    """The settings of the training that was chosen; a warm-up that is too long for it is left."""
    settings: dict[str, object] = {}
    for name, number in (("pretrain", choice.step_one_epochs), ("cotrain", choice.step_two_epochs)):
        settings[f"{name}.num_epochs"] = number
        if (getattr(config, name).warmup_epochs or 0) >= max(number, 1):
            settings[f"{name}.warmup_epochs"] = None
    return with_settings(at_size(choice.image_size, config), settings)


def told(choice: Choice, config: Config, given: str, left: float) -> str:
    """What was chosen, for a person."""
    sizes = {resolve_role(at_size(choice.image_size, config), r.value).image_size for r in ROLES}
    pixels = " and ".join(map(str, sorted(sizes)))
    return (
        f"time {given}: images of {pixels} pixels, {choice.step_one_epochs} epoch(s) of Step 1 and "
        f"{choice.step_two_epochs} of Step 2, about {choice.seconds:.0f} of the {left:.0f} s left"
    )


def measured_speeds(sizes: Sequence[int], images: Images, ctx: RunContext) -> dict[Role, Speed]:
    """Of both models, measured on the first rank of each while the others measure as well.

    sizes: in pixels, the smallest first. Collective over all ranks.
    """
    barrier(ctx.runtime.control)
    own = {}
    with tempfile.TemporaryDirectory() as scratch:
        for role in ctx.runtime.roles_here:
            own[role.value] = [
                _speed_at(size, role, Path(scratch), images, ctx) for size in dict.fromkeys(sizes)
            ]
    STOP.rest("nothing was begun; ")
    ctx.runtime.clock.take()  # no part of an epoch
    known: dict[str, list[list[float]]] = {}
    for part in all_gather_json(own, ctx.runtime.control):
        known = part | known  # of several ranks the first
    return {
        role: Speed(
            [(int(size), train) for size, train, _ in known[role.value]],
            [(int(size), label) for size, _, label in known[role.value]],
        )
        for role in ROLES
    }


def _speed_at(
    size: int, role: Role, scratch: Path, images: Images, ctx: RunContext
) -> tuple[int, float, float]:
    """(size, seconds of a trained image, of a labeled one), of a model that is thrown away.

    scratch: a folder for a commit, where something asks for an end meanwhile.
    """
    alone = replace(ctx, runtime=_alone(ctx.runtime), store=RunDirectory(scratch))
    own = resolve_role(at_size(size, ctx.config), role.value)
    is_head = own.model.train == "head"
    first = replace(own.model, pretrained=False, init_from=None, train="all")
    own = replace(own, model=first, compile=False, train=replace(own.train, exact_elastic=0))
    model = build_model(own, role, images.table.class_names)
    student = build_student(role, model, own, alone.runtime)
    label = seconds_per_labeled_image(student, NUM_PROBED, images, alone)
    train = 0.0 if is_head else seconds_per_trained_image(student, NUM_PROBED, images, alone)
    return own.image_size, train, label


def _alone(rt: Runtime) -> Runtime:
    """A world of this process alone, for what it measures without the others."""
    group = RankGroup("alone", (0,), 0)
    return replace(
        rt,
        rows=[rt.rows[rt.global_rank]],
        placement=Placement((0,), (0,)),
        control=group,
        role_groups=dict.fromkeys(ROLES, group),
        gradient_handles=dict.fromkeys(ROLES),
    )


def costs_at(
    size: int,
    speeds: Mapping[Role, Speed],
    config: Config,
    placement: Placement,
    table: SplitTable,
) -> Costs:
    """Seconds of a training at an image size; the roles at one time where each has its ranks."""
    by_role = []
    for role, speed in speeds.items():
        own = resolve_role(at_size(size, config), role.value)
        num_ranks = len(placement.ranks_of(role))
        train = seconds_at(own.image_size, speed.train) / num_ranks
        label = seconds_at(own.image_size, speed.label) / num_ranks
        by_role.append(_costs_of(role, own, train, label, config, table))
    # One process trains both models in turn.
    join = sum if placement.ranks_a == placement.ranks_b else max
    before, step_one, step_two = (join(values) for values in zip(*by_role, strict=True))
    return Costs(image_size=size, before=before, step_one=step_one, step_two=step_two)


def _costs_of(
    role: Role, own: RoleConfig, train: float, label: float, config: Config, table: SplitTable
) -> tuple[float, float, float]:
    """Seconds of one model: before the epochs, of an epoch of Step 1, of one of Step 2."""
    num_of = {split: len(table.sample_ids(split)) for split in Split}
    num_images = sum(num for split, num in num_of.items() if split is not Split.OUT)
    num_measured = num_of[Split.T] + num_of[Split.V]
    if own.model.train == "head":
        return num_images * label, 0.0, 0.0
    num_own = len(table.labeled(role, config.pretrain.labels))
    num_labeled = len(table.labeled(role, config.labels))
    measured = num_measured + (0 if num_of[Split.V] else num_own)
    before = measured * label + (num_own * label if config.pretrain.fit_head else 0.0)
    if config.structure.kind != "off":
        before += num_images * label
    every = config.pretrain.eval_every_epochs
    step_one = num_own * train + num_of[Split.T] * label / every
    asks = config.exchange != "none"
    share = 1.0 if config.selection.rule.startswith("mean") else SELECTED_SHARE
    num_taught = share * num_of[Split.U] if asks else 0.0
    num_asked = num_of[Split.U] / max(1, config.cotrain.round_length) if asks else 0.0
    num_learned = num_labeled + num_taught
    if config.consistency.is_on:
        size, ratio = config.train.batch_size, config.consistency.ratio
        num_steps = num_consistency_steps(int(num_learned), num_of[Split.U], size, ratio)
        num_learned = num_steps * size
        num_asked += num_learned * ratio / (ratio + 1)
    step_two = num_learned * train + (num_asked + measured) * label
    return (
        before,
        step_one if config.pretrain.num_epochs else 0.0,
        step_two if config.cotrain.num_epochs else 0.0,
    )
