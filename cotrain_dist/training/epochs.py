"""How an epoch of Step 2 ends: recorded, exported, committed."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import TrainingError
from cotrain_dist.method.advice import advise
from cotrain_dist.method.exchange import teacher_of
from cotrain_dist.method.metrics import (
    Accuracy,
    agreement_rate,
    describe_pool,
    histogram,
    pseudo_label_accuracy,
)
from cotrain_dist.method.selection import num_equal_codes
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.clock import peak_memory_bytes
from cotrain_dist.runtime.collectives import all_gather_json, broadcast_json
from cotrain_dist.store.records import CotrainRecord, Fit, RoleRecord
from cotrain_dist.training.commits import CotrainState, commit_cotrain
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.exports import export_models, keep_best_on_validation
from cotrain_dist.training.lines import cotrain_line
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES, Exchange, Position, Role, Votes


@dataclass(frozen=True, kw_only=True)
class EpochOutcome:
    """What an epoch of Step 2 came to, equal on every rank but for `seconds`."""

    epoch: int
    votes: Votes | None
    """On all of U; None where nobody voted."""
    exchanged: Exchange
    fits: Mapping[Role, Fit]
    """Of both roles; empty before the first epoch."""
    measured: Mapping[Split, Mapping[str, Accuracy]]
    """On T and V, where there are such: of a, b and ensemble."""
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
    if Split.V in outcome.measured:
        validation = outcome.measured[Split.V]
        # Before the commit, which keeps `state.best`: the file must not be older than that.
        keep_best_on_validation(students, state, outcome.epoch, validation, class_names, ctx.store)
    pool_ids = images.table.sample_ids(Split.U)
    for role in ROLES:
        selected = outcome.exchanged.selected_by(role)
        state.ever_selected |= torch.isin(pool_ids, selected.sample_ids)
    record_epoch(state, outcome, images.table, ctx)
    state.next = Position(outcome.epoch + 1)
    export_models(students, outcome.epoch, class_names, ctx.store)
    commit_cotrain(students, state, images, ctx)


def require_finite(fits: Mapping[Role, Fit], epoch: int, rt: Runtime) -> dict[Role, Fit]:
    """Collective over all ranks: both roles' fits; raises TrainingError on every rank together."""
    fit_of: dict[str, Any] = {}
    own = {role.value: asdict(fit) for role, fit in fits.items()}
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
    state: CotrainState, outcome: EpochOutcome, table: SplitTable, ctx: RunContext
) -> None:
    """Collective over all ranks: the lead rank appends the epoch's record and tells of it.

    Moves `state.num_history_lines` on.
    """
    # Outside of the branch below: every rank has to call what gathers.
    clocks = all_gather_json(ctx.runtime.clock.take(), ctx.runtime.control)
    memory = all_gather_json(peak_memory_bytes(ctx.runtime.device), ctx.runtime.control)
    if ctx.runtime.is_lead:
        record = describe_epoch(
            outcome,
            state.ever_selected,
            table,
            ctx.config,
            seconds_by_rank=clocks,
            peak_memory_bytes_by_rank=memory,
        )
        ctx.store.history.append(record)
        ctx.runtime.track(record.to_json())
        line = cotrain_line(record, ctx.config.cotrain.num_epochs)
        ctx.reporter.say(line)
        ctx.reporter.remember(line)
        if outcome.votes is not None:
            for warning in advise(outcome.exchanged, outcome.votes, list(table.class_names)):
                ctx.reporter.warn(warning)
        state.num_history_lines = ctx.store.history.num_lines()
    state.num_history_lines = broadcast_json(state.num_history_lines, ctx.runtime.control)


def describe_epoch(
    outcome: EpochOutcome,
    ever_selected: Tensor,
    table: SplitTable,
    config: Config,
    **of_ranks: Any,
) -> CotrainRecord:
    """The record of an epoch: R_A and R_B, what U looked like, what was measured.

    of_ranks: the fields that rank by rank tell of time and memory. The true labels of U are read
    here alone, to measure; nothing flows back from here.
    """
    # Changing these labels changes no weight and no R; a test deals them out anew.
    true_labels = table.class_ids[table.sample_ids(Split.U)]
    num_selected = ever_selected.double().sum().item()
    votes = _describe_votes(outcome.votes, true_labels, len(table.class_names), config)
    # Epoch 0 comes before any exchange, so nobody has taught, whatever the settings say.
    exchange = "none" if outcome.votes is None else config.exchange
    teachers = {
        role: teacher_of(role, outcome.epoch, exchange, config.exchange_parity) for role in ROLES
    }
    return CotrainRecord(
        epoch=outcome.epoch,
        **votes,
        # U is empty where a study gives all of it to L, as its ceiling.
        never_selected_fraction=1.0 - num_selected / max(len(true_labels), 1),
        roles={
            role.value: _describe_role(role, teacher, outcome, table)
            for role, teacher in teachers.items()
        },
        test=outcome.measured.get(Split.T),
        validation=outcome.measured.get(Split.V),
        seconds=round(outcome.seconds, 3),
        **of_ranks,
    )


def _describe_votes(
    votes: Votes | None, true_labels: Tensor, num_classes: int, config: Config
) -> dict[str, Any]:
    """The fields of a record that tell of the votes on U; None where nobody voted."""
    if votes is None:
        return dict.fromkeys(("exchange", "agreement_rate", "num_equal_codes", "pool"))
    return {
        "exchange": config.exchange,
        "agreement_rate": agreement_rate(votes),
        "num_equal_codes": num_equal_codes(votes, threshold=config.selection.threshold),
        "pool": describe_pool(votes, true_labels, num_classes),
    }


def _describe_role(
    role: Role, teacher: Role | None, outcome: EpochOutcome, table: SplitTable
) -> RoleRecord:
    selected = outcome.exchanged.selected_by(role)
    num_classes = len(table.class_names)
    # An unknown class is -1, which no pseudo-label equals: such an image counts as not right.
    is_right = selected.labels == table.class_ids[selected.sample_ids]
    return RoleRecord(
        teacher=None if teacher is None else teacher.value,
        num_selected=len(selected.labels),
        selected_accuracy=pseudo_label_accuracy(selected, table.class_ids),
        selected_class_histogram=histogram(selected.labels, num_classes),
        selected_right_histogram=histogram(selected.labels[is_right], num_classes),
        fit=outcome.fits.get(role),
    )
