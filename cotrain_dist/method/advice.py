"""Warnings, each with what may help: an exchange stops to teach, or weights have exploded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cotrain_dist.method.statistics import wilson_interval
from cotrain_dist.types import ROLES, Exchange, Role

LARGEST_CLASS_FRACTION = 0.5
LARGEST_AGREEMENT = 0.95


def advise(exchanged: Exchange, agreement_rate: float, class_names: Sequence[str]) -> list[str]:
    """One line for each sign of collapse: an empty R, one class over half of an R, consensus.

    agreement_rate: fraction of U on which A and B name the same class.
    """
    warnings = []
    for role in ROLES:
        labels = exchanged.selected_by(role).labels
        name = f"R_{role.name}"
        if not len(labels):
            warnings.append(
                f"{name} is empty, whoever learns it trains on labeled images alone: "
                "lower selection.threshold, or let the models differ more"
            )
            continue
        counts = torch.bincount(labels)
        if counts.max() > LARGEST_CLASS_FRACTION * len(labels):
            warnings.append(
                f"{name}: {counts.max()} of {len(labels)} images are called "
                f"{class_names[int(counts.argmax())]}: raise selection.threshold or label more "
                "images of the other classes"
            )
    # Models that learn from each other converge: then R shrinks towards nothing, and Step 2 turns
    # into training on the labeled images.
    if agreement_rate > LARGEST_AGREEMENT:
        warnings.append(
            f"A and B agree on {agreement_rate:.1%} of U, so little is left to exchange: "
            "stop here, or give model_a and model_b different architectures"
        )
    return warnings


@dataclass(frozen=True)
class Watched:
    """How many of some labeled images a model calls right. Never of T, which decides nothing."""

    num_right: int
    num_images: int
    num_of_one_class: int
    """Images of the largest class: what a model gets right that gives them all one name."""

    @property
    def _num_learned(self) -> int:
        return self.num_right - self.num_of_one_class


Weights = Literal["well", "at chance", "fallen"]


def weights_of(now: Watched, before: Watched) -> Weights:
    """What a model's answers tell of its weights; before: at the start of Step 2, the same images.

    fallen: it has lost more than half of what it was above chance, and that is no scatter of few
    images (the 95 % intervals do not meet). Step 2 as it should be loses a few points at most, and
    exploded weights all. at chance: it is not above chance, whatever it was before.
    """
    if not now.num_images:
        return "well"
    low, high = wilson_interval(now.num_right, now.num_images)
    low_before, _ = wilson_interval(before.num_right, before.num_images)
    if 2 * now._num_learned < before._num_learned and high < low_before:
        return "fallen"
    chance = now.num_of_one_class / now.num_images
    # Of two images both right is not above a chance of a half, so the interval alone is not enough.
    is_low = 2 * now._num_learned < now.num_images - now.num_of_one_class
    return "at chance" if low <= chance and is_low else "well"


def advise_after_step_one(role: Role, fit: Watched) -> list[str]:
    """A line where a model has not learned its own labels; fit: on these, after Step 1."""
    if weights_of(fit, fit) == "well":
        return []
    return [
        f"model {role.name} calls {fit.num_right} of its {fit.num_images} own labels right, and "
        f"one name for all would {fit.num_of_one_class}: it has learned next to nothing, or its "
        "weights have exploded: lower pretrain.learning_rate, set train.clip_grad_norm, or give "
        "pretrain more epochs"
    ]


def advise_in_step_two(role: Role, now: Watched, before: Watched, on: str) -> list[str]:
    """A line where a model has lost in Step 2 what it knew before; on: the images, in words."""
    if weights_of(now, before) != "fallen":
        return []
    # Without the present figure: a line that repeats itself in each epoch is shown once.
    return [
        f"model {role.name} is far below its start on {on} ({before.num_right} of "
        f"{before.num_images} right before Step 2): its weights have exploded or are about to. As "
        "it is, it does not become models/best: lower cotrain.learning_rate or set "
        "train.clip_grad_norm"
    ]
