"""Step 2 of the method: the active-learning epochs."""

import time
from collections.abc import Sequence
from dataclasses import replace

from cotrain_dist.config import Config
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.exchange import (
    choose_views,
    taught_to,
    training_set,
    with_unlabeled,
)
from cotrain_dist.method.splits import Split
from cotrain_dist.method.weights import ramped_weight
from cotrain_dist.runtime.deadline import is_over
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.store.records import Fit
from cotrain_dist.training.commits import CotrainState
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.epochs import EpochOutcome, close_epoch, require_finite
from cotrain_dist.training.evaluate import measure_all
from cotrain_dist.training.peers import meet_peers
from cotrain_dist.training.pool import PoolVotes
from cotrain_dist.training.rounds import exchange_of_round, restart, settings_of
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.training.student import Student
from cotrain_dist.types import Exchange, Position, Role, TrainingSet


def cotrain(
    students: list[Student],
    state: CotrainState,
    start_features: Sequence[FeatureStore],
    images: Images,
    ctx: RunContext,
    *,
    until: int | None = None,
) -> None:
    """Each round both label U, R_A and R_B are selected and handed over; each epoch both learn.

    A round is one epoch in the paper. students: those this rank holds. start_features: of both
    models as they began, where the settings ask for those. until: the epoch to end after, instead
    of the last one. With a deadline no epoch begins that would end too late. Collective over all
    ranks; within training, over role groups.
    """
    last_epoch = ctx.config.cotrain.last_epoch if until is None else until
    while state.next.epoch <= last_epoch:
        start, started = state.next, time.monotonic()
        votes, state.exchanged, fits = train_one_epoch(
            students, state.exchanged, start, start_features, images, ctx
        )
        outcome = EpochOutcome(
            epoch=start.epoch,
            exchange=settings_of(start.epoch, ctx.config).exchange,
            votes=votes,
            exchanged=state.exchanged,
            # All ranks learn of both roles here; who raised alone would leave the others measuring.
            fits=require_finite(fits, start.epoch, ctx.runtime),
            measured=measure_all(students, images, ctx),
            seconds=time.monotonic() - started,
        )
        close_epoch(students, state, outcome, images, ctx)
        deadline, seconds = ctx.runtime.deadline, time.monotonic() - started
        if deadline is None or state.next.epoch > last_epoch:
            continue
        if is_over(deadline.last_epoch_ends_at, seconds, ctx.runtime.control):
            ctx.reporter.say(f"no time is left for epoch {state.next.epoch} of {last_epoch}")
            break


def train_one_epoch(
    students: list[Student],
    exchanged: Exchange,
    start: Position,
    start_features: Sequence[FeatureStore],
    images: Images,
    ctx: RunContext,
) -> tuple[PoolVotes | None, Exchange, dict[Role, Fit]]:
    """One epoch of both models; where it begins a round, the votes on U and the exchange first.

    exchanged: what the round before has taught, or this one where it goes on. Returns the votes on
    this rank's part of U (None within a round), what this round teaches, and the fits of this
    rank's models. Collective over all ranks; within training, over role groups. Writes no record.
    """
    config, votes = settings_of(start.epoch, ctx.config), None
    if config.cotrain.begins_round(start.epoch):
        # Made anew in each round, as in the paper: no image stays in R because it once was.
        votes, exchanged = exchange_of_round(
            students,
            start_features,
            images,
            replace(ctx, config=config),
            is_first=start.epoch == 1,
        )
        for student in students:
            restart(student, images, ctx)

    meet_peers(students, ctx.runtime)  # where they teach each other within the steps

    fits = {}
    for student in students:
        learned = learned_by(student, exchanged, start.epoch, images.table, config)
        fits[student.role] = train_epoch(student, learned, "cotrain", start, images.pixels, ctx)

    # The roles have trained for different times; this wait is not to count as measuring.
    ctx.runtime.wait_for_all()
    return votes, exchanged, fits


def learned_by(
    student: Student, exchanged: Exchange, epoch: int, table: SplitTable, config: Config
) -> TrainingSet:
    """What a model learns in an epoch: its labels, the R it is taught and, for its teachers, U."""
    taught = taught_to(student.role, exchanged, epoch, config.exchange, config.exchange_parity)
    train, usual = student.config.train, student.config.augmentation
    weight = ramped_weight(epoch, train.pseudo_weight, train.pseudo_ramp_epochs)
    learned = training_set(table.labeled(student.role, config.labels), taught, weight)
    learned = choose_views(learned, train.pseudo_view, usual, epoch)
    return with_unlabeled(learned, table.sample_ids(Split.U)) if student.teachers else learned


def start_state(students: list[Student], images: Images, ctx: RunContext) -> CotrainState:
    """The state before the first epoch: measured, recorded and committed as epoch 0.

    Collective over all ranks.
    """
    state = CotrainState.at_start(len(images.table.sample_ids(Split.U)))
    outcome = EpochOutcome(
        epoch=0,
        exchange="none",
        votes=None,
        exchanged=Exchange.empty(),
        fits={},
        measured=measure_all(students, images, ctx),
        seconds=0.0,
    )
    close_epoch(students, state, outcome, images, ctx)
    return state
