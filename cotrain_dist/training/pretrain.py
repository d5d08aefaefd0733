"""Step 1: A on L_A, B on L_B. The roles do not meet here."""

import math
import time

from cotrain_dist.config import PretrainConfig
from cotrain_dist.errors import TrainingError
from cotrain_dist.method.splits import Split
from cotrain_dist.store.records import PretrainRecord
from cotrain_dist.training.commits import PretrainState, commit_pretrain
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import measure_role
from cotrain_dist.training.lines import pretrain_line
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.training.student import Student
from cotrain_dist.types import Position, TrainingSet


def pretrain(student: Student, state: PretrainState, images: Images, ctx: RunContext) -> None:
    """Train one model on its own labels from `state` on. Collective over its role group.

    Moves `state` on. Ends after `pretrain.num_epochs`, or once the model fits its labels to
    `stop_at_train_accuracy`.
    """
    config = student.config.pretrain
    labeled = images.table.labeled(student.role, config.labels)
    while state.next.epoch <= config.num_epochs and not state.is_finished:
        epoch, started = state.next.epoch, time.monotonic()
        record = pretrain_epoch(student, labeled, state.next, images, ctx)
        # A fit of the last layer is at its end at once: more epochs would repeat it.
        state.is_finished = (
            epoch == config.num_epochs
            or student.frozen is not None
            or _reaches(record.train_accuracy, config)
        )
        state.records.append(record)
        state.next = Position(epoch + 1)
        line = pretrain_line(record, time.monotonic() - started, config.num_epochs)
        shown = record.test is not None or epoch % -(-config.num_epochs // 10) == 0
        ctx.reporter.say(line, shown=shown)
        # After `state` has moved on: the commit holds the epoch to go on with.
        commit_pretrain(student, state, epoch, images, ctx)


def pretrain_epoch(
    student: Student, labeled: TrainingSet, start: Position, images: Images, ctx: RunContext
) -> PretrainRecord:
    """Train and measure one epoch. Collective over the role group."""
    config, epoch = student.config.pretrain, start.epoch
    fit = train_epoch(student, labeled, "pretrain", start, images.pixels, ctx)
    if not math.isfinite(fit.loss):
        # By this role alone: the other one is elsewhere in Step 1 and hears of it through the
        # heartbeat.
        raise TrainingError(
            f"pre-training epoch {epoch}: the loss of model {student.role.name} is "
            f"{fit.loss}; lower pretrain.learning_rate or set train.clip_grad_norm"
        )
    train_accuracy = test = None
    is_last = epoch == config.num_epochs or student.frozen is not None
    if config.stop_at_train_accuracy is not None or is_last:
        train_accuracy = measure_role(student, labeled.sample_ids, images, ctx).top1
    is_last = is_last or _reaches(train_accuracy, config)
    # T is measured for the curve alone (Table 2 of the paper): what may stop a model is its own L.
    test_ids = images.table.sample_ids(Split.T)
    if len(test_ids) and (is_last or epoch % config.eval_every_epochs == 0):
        test = measure_role(student, test_ids, images, ctx)
    return PretrainRecord(
        role=student.role.value,
        epoch=epoch,
        fit=fit,
        train_accuracy=train_accuracy,
        test=test,
        seconds=ctx.runtime.clock.take(),
    )


def _reaches(train_accuracy: float | None, config: PretrainConfig) -> bool:
    """Whether a model fits its labels as well as Step 1 asks for."""
    wanted = config.stop_at_train_accuracy
    return wanted is not None and train_accuracy is not None and train_accuracy >= wanted
