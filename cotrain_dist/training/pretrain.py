"""Step 1: A on L_A, B on L_B. The roles do not meet here."""

import math
import time
from collections.abc import Sequence

from cotrain_dist.config import PretrainConfig
from cotrain_dist.errors import TrainingError
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.deadline import is_over
from cotrain_dist.runtime.stop import STOP
from cotrain_dist.store.records import PretrainRecord
from cotrain_dist.training.commits import PretrainState, commit_pretrain
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import measure_role
from cotrain_dist.training.exports import export_early
from cotrain_dist.training.lines import pretrain_line
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.training.student import Student
from cotrain_dist.types import Position, TrainingSet


def pretrain(student: Student, state: PretrainState, images: Images, ctx: RunContext) -> None:
    """Train one model on its own labels from `state` on. Collective over its role group.

    Moves `state` on. Ends after `pretrain.num_epochs`, or once the model fits its labels to
    `stop_at_train_accuracy`, or V has not risen for `patience_epochs`, or its time is over.
    """
    config = student.config.pretrain
    labeled = images.table.labeled(student.role, config.labels)
    while state.next.epoch <= config.num_epochs and not state.is_finished:
        epoch, started = state.next.epoch, time.monotonic()
        record, state.is_finished = pretrain_epoch(student, labeled, state, images, ctx)
        state.records.append(record)
        state.next = Position(epoch + 1)
        seconds = time.monotonic() - started
        line = pretrain_line(record, seconds, config.num_epochs)
        shown = record.test is not None or epoch % -(-config.num_epochs // 10) == 0
        ctx.reporter.say(line, shown=shown)
        if ctx.runtime.deadline is not None:
            is_first = student.role is not ctx.runtime.roles_here[-1]
            ends_at = ctx.runtime.deadline.step_one_ends(is_first_of_two=is_first)
            state.is_finished = is_over(ends_at, seconds, student.group) or state.is_finished
            export_early(student, images.table.class_names, ctx.store)
        # After `state` has moved on: the commit holds the epoch to go on with.
        commit_pretrain(student, state, epoch, images, ctx)
        STOP.rest(f"committed pre-training epoch {epoch}; ")


def pretrain_epoch(
    student: Student, labeled: TrainingSet, state: PretrainState, images: Images, ctx: RunContext
) -> tuple[PretrainRecord, bool]:
    """Train and measure one epoch, and say whether it is the last.

    Collective over the role group.
    """
    config, epoch = student.config.pretrain, state.next.epoch
    fit = train_epoch(student, labeled, "pretrain", state.next, images.pixels, ctx)
    if not math.isfinite(fit.loss):
        # By this role alone: the other one is elsewhere in Step 1 and hears of it through the
        # heartbeat.
        raise TrainingError(
            f"pre-training epoch {epoch}: the loss of model {student.role.name} is "
            f"{fit.loss}; lower pretrain.learning_rate or set train.clip_grad_norm"
        )
    train_accuracy = validation = test = None
    # A fit of the last layer is at its end at once: more epochs would repeat it.
    is_last = epoch == config.num_epochs or student.frozen is not None
    if config.patience_epochs is not None:
        validation = measure_role(student, images.table.sample_ids(Split.V), images, ctx)
        earlier = [r.validation.top1 for r in state.records if r.validation is not None]
        is_last = is_last or has_stalled([*earlier, validation.top1], config.patience_epochs)
    if config.stop_at_train_accuracy is not None or is_last:
        train_accuracy = measure_role(student, labeled.sample_ids, images, ctx).top1
    is_last = is_last or _reaches(train_accuracy, config)
    # T is measured for the curve alone (Table 2 of the paper): what may stop a model is its own L.
    test_ids = images.table.sample_ids(Split.T)
    if len(test_ids) and (is_last or epoch % config.eval_every_epochs == 0):
        test = measure_role(student, test_ids, images, ctx)
    record = PretrainRecord(
        role=student.role.value,
        epoch=epoch,
        fit=fit,
        train_accuracy=train_accuracy,
        validation=validation,
        test=test,
        seconds=ctx.runtime.clock.take(),
    )
    return record, is_last


def has_stalled(values: Sequence[float], patience_epochs: int) -> bool:
    """Whether none of the last so many values is above the best one before them.

    >>> has_stalled([0.5, 0.7, 0.7, 0.6], 2), has_stalled([0.5, 0.7, 0.71, 0.6], 2)
    (True, False)
    """
    before = values[:-patience_epochs]
    return bool(before) and max(values[-patience_epochs:]) <= max(before)


def _reaches(train_accuracy: float | None, config: PretrainConfig) -> bool:
    """Whether a model fits its labels as well as Step 1 asks for."""
    wanted = config.stop_at_train_accuracy
    return wanted is not None and train_accuracy is not None and train_accuracy >= wanted
