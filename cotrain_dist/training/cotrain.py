"""Step 2 of the method: the active-learning epochs."""

import time

from cotrain_dist.method.exchange import taught_to
from cotrain_dist.method.splits import Group
from cotrain_dist.training.commits import CotrainState, commit_cotrain
from cotrain_dist.training.evaluate import measure_group
from cotrain_dist.training.experiment import Experiment, labeled_samples
from cotrain_dist.training.pool import exchange_selected, vote_on_pool
from cotrain_dist.training.publish import (
    export_models,
    keep_best_on_validation,
    publish_epoch,
    require_finite,
)
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.training.student import Student
from cotrain_dist.types import Exchange, PseudoLabeled


def cotrain(students: list[Student], state: CotrainState, exp: Experiment) -> None:
    """Each epoch: both label U, the exchange is selected and handed round, each learns, measure.

    students: those this rank holds. Collective over all ranks; within training, over role groups.
    """
    config = exp.config
    for epoch in range(state.next_epoch, config.cotrain.num_epochs + 1):
        started = time.monotonic()
        votes = None
        exchanged = Exchange(PseudoLabeled.empty(), PseudoLabeled.empty())
        if config.exchange != "none":
            votes = vote_on_pool(students, exp)  # each rank its shard of U; all-gathered
            exchanged = exchange_selected(votes, exp)  # R_A and R_B, broadcast

        fits = {}
        for student in students:
            taught = taught_to(
                student.role, exchanged, epoch, config.exchange, config.exchange_parity
            )
            samples = labeled_samples(exp.table, student.role, config.labels) + taught
            fits[student.role] = train_epoch(student, samples, "cotrain", epoch, exp)

        exp.rt.wait_for_all()
        all_fits = require_finite(fits, epoch, exp)
        measured = {"test": measure_group(students, Group.T, exp)}
        if config.data.validation_fraction:
            measured["validation"] = measure_group(students, Group.V, exp)
            keep_best_on_validation(students, state, measured["validation"], epoch, exp)
        num_lines = publish_epoch(
            epoch, exchanged, votes, all_fits, measured, state, time.monotonic() - started, exp
        )
        state.next_epoch = epoch + 1
        export_models(students, epoch, exp)
        commit_cotrain(students, state, epoch, num_lines, exp)


def start_state(students: list[Student], exp: Experiment) -> CotrainState:
    """The state before the first epoch: measured, published and committed as epoch 0.

    Collective over all ranks.
    """
    num_pool = len(exp.table.sample_ids(Group.U))
    state = CotrainState(1, PseudoLabeled.empty().labels.new_zeros(num_pool).bool())
    measured = {"test": measure_group(students, Group.T, exp)}
    if exp.config.data.validation_fraction:
        measured["validation"] = measure_group(students, Group.V, exp)
        keep_best_on_validation(students, state, measured["validation"], 0, exp)
    empty = Exchange(PseudoLabeled.empty(), PseudoLabeled.empty())
    num_lines = publish_epoch(0, empty, None, {}, measured, state, 0.0, exp)
    export_models(students, 0, exp)
    commit_cotrain(students, state, 0, num_lines, exp)
    return state
