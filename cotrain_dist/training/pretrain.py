"""Step 1: A on L_A, B on L_B. The roles do not meet here."""

import math
import time
from typing import Any

from cotrain_dist.config import PretrainConfig
from cotrain_dist.errors import TrainingError
from cotrain_dist.method.splits import Group
from cotrain_dist.training.commits import PretrainState, commit_pretrain
from cotrain_dist.training.evaluate import measure_role
from cotrain_dist.training.experiment import Experiment, Samples, labeled_samples
from cotrain_dist.training.steps import EpochFit, train_epoch
from cotrain_dist.training.student import Student


def pretrain(student: Student, state: PretrainState, exp: Experiment) -> None:
    """Train one model on its own labels from `state` on. Collective over its role group.

    Moves `state` on. Ends after `pretrain.num_epochs`, or once the model fits its labels to
    `stop_at_train_accuracy`.
    """
    config = student.config.pretrain
    samples = labeled_samples(exp.table, student.role, config.labels)
    while state.next_epoch <= config.num_epochs and not state.is_finished:
        epoch, started = state.next_epoch, time.monotonic()
        fit = train_epoch(student, samples, "pretrain", epoch, exp)
        if not math.isfinite(fit.loss):
            raise TrainingError(
                f"pre-training epoch {epoch}: the loss of model {student.role.name} is "
                f"{fit.loss}; lower pretrain.learning_rate or set train.clip_grad_norm"
            )
        train_accuracy = _train_accuracy(student, samples, epoch, exp)
        state.is_finished = epoch == config.num_epochs or (
            config.stop_at_train_accuracy is not None
            and train_accuracy is not None
            and train_accuracy >= config.stop_at_train_accuracy
        )
        seconds = time.monotonic() - started
        record = _record(student, fit, train_accuracy, state.is_finished, epoch, exp)
        state.records.append(record)
        shown = record["test"] is not None or epoch % -(-config.num_epochs // 10) == 0
        exp.reporter.say(_line(record, seconds, config), shown=shown)
        state.next_epoch = epoch + 1
        commit_pretrain(student, state, epoch, exp)


def _train_accuracy(
    student: Student, samples: Samples, epoch: int, exp: Experiment
) -> float | None:
    """Top-1 on L without augmentation; None in epochs where nobody asks for it."""
    config = exp.config.pretrain
    if config.stop_at_train_accuracy is None and epoch < config.num_epochs:
        return None
    return measure_role(student, samples.sample_ids, exp).top1


def _record(
    student: Student,
    fit: EpochFit,
    train_accuracy: float | None,
    is_last: bool,
    epoch: int,
    exp: Experiment,
) -> dict[str, Any]:
    """The history line of one role's epoch."""
    is_measured = is_last or epoch % exp.config.pretrain.eval_every_epochs == 0
    test = None
    if is_measured:
        test = measure_role(student, exp.table.sample_ids(Group.T), exp).as_dict()
    return {
        "phase": "pretrain",
        "role": student.role.value,
        "epoch": epoch,
        "loss": fit.loss,
        "learning_rate": fit.learning_rate,
        "num_steps": fit.num_steps,
        "num_samples": fit.num_samples,
        "train_accuracy": train_accuracy,
        "test": test,
        "seconds": exp.rt.clock.take(),
    }


def _line(record: dict[str, Any], seconds: float, config: PretrainConfig) -> str:
    epoch, samples = record["epoch"], record["num_samples"]
    phases = record["seconds"]
    speed = samples / max(phases.get("train", 0.0), 1e-9)
    minutes_left = (config.num_epochs - epoch) * seconds / 60
    line = f"pretrain {epoch}/{config.num_epochs} {str(record['role']).upper()}: "
    line += f"loss {record['loss']:.3f}, {speed:.0f} images/s, {minutes_left:.1f} min left"
    if record["train_accuracy"] is not None:
        line += f", own labels {record['train_accuracy']:.1%}"
    test = record["test"]
    if isinstance(test, dict):
        line += f", T {test['top1']:.1%}"
    return line
