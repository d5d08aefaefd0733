"""How an epoch of Step 2 ends: recorded, exported, committed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import TrainingError
from cotrain_dist.method.advice import advise
from cotrain_dist.method.exchange import taught_to, teacher_of
from cotrain_dist.method.metrics import (
    Accuracy,
    PoolCounts,
    count_pool,
    histogram,
    no_counts,
    pseudo_label_accuracy,
)
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.clock import peak_memory_bytes
from cotrain_dist.runtime.collectives import RankGroup, all_gather_json, broadcast_json, sum_over
from cotrain_dist.runtime.stop import STOP
from cotrain_dist.store.records import CotrainRecord, Fit, RoleRecord
from cotrain_dist.training.commits import CotrainState, commit_cotrain
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.digests import digests_of
from cotrain_dist.training.exports import (
    choose_without_validation,
    export_models,
    note_best,
    save_best,
)
from cotrain_dist.training.guards import watch_step_two
from cotrain_dist.training.lines import cotrain_line
from cotrain_dist.training.pictures import show_learned
from cotrain_dist.training.pool import PoolVotes
from cotrain_dist.training.promise import STEP_ONE, right_on_validation
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES, Exchange, Position, PseudoLabeled, Role


@dataclass(frozen=True, kw_only=True)
class EpochOutcome:
    """What an epoch of Step 2 came to, equal on every rank but for `votes` and `seconds`."""

    epoch: int
    exchange: str
    """The setting, as it was for this epoch."""
    votes: PoolVotes | None
    """On this rank's part of U; None where nobody voted."""
    exchanged: Exchange
    fits: Mapping[Role, Fit]
    """Of both roles; empty before the first epoch."""
    measured: Mapping[Split, Mapping[str, Accuracy]]
    """On T and V, where there are such: of a, b, ensemble. Without V also of a on L_A, b on L_B."""
    seconds: float


def close_epoch(
    students: list[Student],
    state: CotrainState,
    outcome: EpochOutcome,
    images: Images,
    ctx: RunContext,
) -> None:
    """Keep what an epoch came to; the next one starts from `state`. Collective over all ranks.

    The commit comes last: until it stands, a resume begins this epoch anew, and cuts its line off.
    """
    class_names = images.table.class_names
    # Before the commit, which keeps `state.best`: the file must not be older than that.
    keep_best(students, state, outcome, images, ctx)
    pool_ids = images.table.sample_ids(Split.U)
    note_selected(state.ever_selected, outcome.exchanged, pool_ids)
    record_epoch(students, state, outcome, images.table, ctx)
    if ctx.runtime.is_lead and outcome.votes is not None:
        parity = ctx.config.exchange_parity
        taught = {
            role: taught_to(role, outcome.exchanged, outcome.epoch, outcome.exchange, parity)
            for role in ROLES
        }
        view = students[0].eval_view
        show_learned(outcome.epoch, taught, outcome.votes, view, images, ctx)
    state.next = Position(outcome.epoch + 1)
    export_models(students, outcome.epoch, class_names, ctx.store)
    if outcome.epoch == 0 and ctx.config.cotrain.returns_to_step_one:
        export_models(students, 0, class_names, ctx.store, prefix=STEP_ONE)
    commit_cotrain(students, state, images, ctx)
    STOP.rest(f"committed epoch {outcome.epoch}; ")


def keep_best(
    students: list[Student],
    state: CotrainState,
    outcome: EpochOutcome,
    images: Images,
    ctx: RunContext,
) -> None:
    """Collective over all ranks: write models/best where this epoch has made it.

    With V wherever a model beats all before it. Without V, and with `cotrain.keep_step_one`, at
    epoch 0 alone: the run's end decides what takes its place.
    """
    names, keep = images.table.class_names, ctx.config.cotrain.keep_step_one
    is_start, validation = outcome.epoch == 0, outcome.measured.get(Split.V)
    if validation is None and is_start:
        test = None if keep else outcome.measured.get(Split.T)
        best, why = choose_without_validation(0, test, None, ROLES)
        save_best(students, best, why, names, ctx.store)
    if validation is None or (keep and not is_start):
        return
    best_on_v = note_best(state, outcome.epoch, validation)
    if best_on_v is not None:
        save_best(students, best_on_v, {"chosen_on": "V"}, names, ctx.store)
    if best_on_v is not None and keep:
        role = Role(best_on_v.role)
        state.right_before = right_on_validation(students, role, images, ctx)


def note_selected(ever_selected: Tensor, exchanged: Exchange, pool_ids: Tensor) -> None:
    """Mark the images of both R. ever_selected: [N] bool, changed; pool_ids: [N] int64."""
    if not len(pool_ids):
        return
    is_selected = torch.zeros(int(pool_ids[-1]) + 1, dtype=torch.bool)
    for role in ROLES:
        is_selected[exchanged.selected_by(role).sample_ids] = True
    ever_selected |= values_at(is_selected, pool_ids)


def require_finite(fits: Mapping[Role, Fit], epoch: int, rt: Runtime) -> dict[Role, Fit]:
    """Collective over all ranks: both roles' fits; raises TrainingError on every rank together."""
    fit_of: dict[str, Any] = {}
    own = {role.value: fit.to_json() for role, fit in fits.items()}
    for part in all_gather_json(own, rt.control):
        fit_of |= part
    for name, fit in sorted(fit_of.items()):
        if not math.isfinite(fit["loss"]):
            raise TrainingError(
                f"epoch {epoch}: the loss of model {name.upper()} is {fit['loss']}; lower "
                "cotrain.learning_rate or set train.clip_grad_norm. What was committed before "
                "this epoch stays."
            )
    return {role: Fit(**fit_of[role.value]) for role in ROLES}


def record_epoch(
    students: list[Student],
    state: CotrainState,
    outcome: EpochOutcome,
    table: SplitTable,
    ctx: RunContext,
) -> None:
    """Collective over all ranks: the lead rank appends the epoch's record and tells of it.

    Moves `state.num_history_lines` on.
    """
    pool_ids = table.sample_ids(Split.U)
    # Outside of the branch below: every rank has to call what gathers.
    clocks = all_gather_json(ctx.runtime.clock.take(), ctx.runtime.control)
    memory = all_gather_json(peak_memory_bytes(ctx.runtime.device), ctx.runtime.control)
    digests = digests_of(students, outcome.exchanged, ctx.runtime)
    counts = None
    if outcome.votes is not None:
        counts = count_votes(outcome.votes, table, pool_ids, ctx.runtime.control)
    if ctx.runtime.is_lead:
        record = describe_epoch(
            outcome,
            counts,
            state.ever_selected,
            table,
            ctx.config,
            seconds_by_rank=clocks,
            peak_memory_bytes_by_rank=memory,
            digests=digests,
        )
        ctx.store.history.append(record)
        ctx.runtime.track(record.to_json())
        line = cotrain_line(record, ctx.config.cotrain.last_epoch)
        ctx.reporter.say(line)
        ctx.reporter.remember(line)
        warnings = watch_step_two(ctx.store.history.cotrain()[0], record, table)
        if counts is not None:
            warnings += advise(outcome.exchanged, counts.agreement_rate, table.class_names)
        for warning in warnings:
            ctx.reporter.warn(warning)
        state.num_history_lines = ctx.store.history.num_lines()
    state.num_history_lines = broadcast_json(state.num_history_lines, ctx.runtime.control)


def count_votes(
    votes: PoolVotes, table: SplitTable, pool_ids: Tensor, control: RankGroup
) -> PoolCounts:
    """Collective over all ranks: what both models call U, counted against the true labels.

    The true labels of U are read here and for the accuracy of R alone, to measure; nothing flows
    back from here.
    """
    # Changing these labels changes no weight and no R; a test deals them out anew.
    num_classes = len(table.class_names)
    counts = no_counts(num_classes)
    for where, block in votes.blocks():
        true_labels = values_at(table.class_ids, pool_ids[where])
        counts += count_pool(block, true_labels, num_classes, cuts=votes.cuts)
    # Each rank its part; of whole numbers, so the sum is the same in every world.
    return PoolCounts(sum_over(counts.values, control))


def describe_epoch(
    outcome: EpochOutcome,
    counts: PoolCounts | None,
    ever_selected: Tensor,
    table: SplitTable,
    config: Config,
    **of_ranks: Any,
) -> CotrainRecord:
    """The record of an epoch: R_A and R_B, what U looked like, what was measured.

    counts: of all of U; None where nobody voted. of_ranks: the fields that all ranks give
    together, of time, memory and digests.
    """
    # Epoch 0 comes before any exchange, so nobody has taught, whatever the settings say.
    exchange = "none" if counts is None else outcome.exchange
    teachers = {
        role: teacher_of(role, outcome.epoch, exchange, config.exchange_parity) for role in ROLES
    }
    return CotrainRecord(
        epoch=outcome.epoch,
        exchange=None if counts is None else outcome.exchange,
        agreement_rate=None if counts is None else counts.agreement_rate,
        num_equal_codes=None if counts is None else counts.num_equal_codes,
        pool=None if counts is None else counts.describe(),
        # U is empty where a study gives all of it to L, as its ceiling.
        never_selected_fraction=1.0 - int(ever_selected.sum()) / max(len(ever_selected), 1),
        roles={
            role.value: _describe_role(role, teacher, outcome, table)
            for role, teacher in teachers.items()
        },
        test=outcome.measured.get(Split.T),
        validation=outcome.measured.get(Split.V),
        seconds=round(outcome.seconds, 3),
        **of_ranks,
    )


def _describe_role(
    role: Role, teacher: Role | None, outcome: EpochOutcome, table: SplitTable
) -> RoleRecord:
    own = outcome.measured.get(Split.L_A if role is Role.A else Split.L_B)
    return RoleRecord(
        teacher=None if teacher is None else teacher.value,
        fit=outcome.fits.get(role),
        own_accuracy=None if own is None else own[role.value].top1,
        **describe_selected(outcome.exchanged.selected_by(role), table),
    )


def describe_selected(selected: PseudoLabeled, table: SplitTable) -> dict[str, Any]:
    """The fields of a role's record that tell of its R."""
    num_classes = len(table.class_names)
    truth = values_at(table.class_ids, selected.sample_ids)
    # An unknown class is -1, which no pseudo-label equals: such an image counts as not right.
    is_right = selected.labels == truth
    return {
        "num_selected": len(selected.labels),
        "selected_accuracy": pseudo_label_accuracy(selected.labels, truth),
        "selected_class_histogram": histogram(selected.labels, num_classes),
        "selected_right_histogram": histogram(selected.labels[is_right], num_classes),
    }


def values_at(values: Tensor, places: Tensor) -> Tensor:
    """values[places], [n]: taken by numpy, several times faster than by torch on one thread."""
    return torch.from_numpy(values.numpy().take(places.numpy()))
