"""What `reproduce` compares: each condition and baseline is data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cotrain_dist.config.recipes import RECIPES

START = "start"
"""The part that pre-trains A and B once for all conditions of a seed."""


PLAIN: Mapping[str, object] = {"exchange": "none", "exchange_parity": "even_own", "labels": "own"}
"""What every arm decides, whatever the user's settings say; `Arm.settings` says what differs."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A condition or a baseline."""

    name: str
    title: str
    stands_for: str = ""
    """What of the paper it is a reading of."""
    table: str = ""
    """Number of the paper's table to put beside it."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What it decides, beside PLAIN, on top of the user's settings: values by dotted key."""
    begins: Literal["pretrained", "shared", "all"] = "pretrained"
    """From the seed's pre-trained A and B; or anew, in Step 1 on L_A and L_B together, or on L_A,
    L_B and U with true labels."""
    steps_of: str = ""
    """Train at least the steps that this arm took, in whole epochs, instead of as many epochs."""
    length: Literal["epochs", "images", "trained"] = "epochs"
    """As many epochs as other arms; fewer, for about the images that `vote` sees; or until V has
    stopped rising, where there is a V."""
    needs_views: bool = False
    """Left out where models fit their last layer alone, or where images are not augmented."""
    needs_steps: bool = False
    """Left out where models fit their last layer alone: a fit has no steps to compare."""
    former: str = ""
    """Its name, and that of its folder, in studies of format 1."""

    @property
    def decided(self) -> dict[str, object]:
        """Values by dotted key."""
        return {**PLAIN, **self.settings}


_OWN, _SHARED = "labels own", "labels shared"

LABELS_ONLY = "labels-only"
"""No pseudo-labels, and both models on all labels in Step 2: the paper's Condition 1 to the letter.
With each model on its own labels it is `none-own`."""

VOTE = "vote"
"""Both models on all labels from the start, and the mean of their probabilities: the baseline that
counts, fine-tuned or as heads, as the settings say."""

VOTE_EQUAL = "vote-equal"
"""The same with as many steps in Step 2 as `synergy` takes: so what U teaches is held against more
of the labels, not against a shorter training."""

PAPER = "paper"
"""Condition 2 as section 3 of the paper has it: its own R in even epochs, labels own."""

FIXMATCH, FREEMATCH = "fixmatch", "freematch"
"""One model teaches itself within a step."""

V_PET, SYNERGY = "v-pet", "synergy"
"""What both make of U together: as published, and as `recipe: synergy` has it."""

_ALL_LABELS = {"labels": "shared", "pretrain.labels": "shared"}

CEILING, CEILING_EQUAL = "ceiling", "ceiling-equal"
"""The same with the true labels of U: until it is trained, and at the images that `vote` sees."""

# In an order in which they can run: an arm stands behind the one whose steps it takes.
ARMS = (
    Arm(name="none-own", title=f"no exchange, {_OWN}", stands_for="Table 2", table="2"),
    Arm(
        name=LABELS_ONLY,
        former="none-shared",
        title=f"no exchange, {_SHARED}",
        stands_for="Condition 1, third reading",
        table="3",
        settings={"labels": "shared"},
    ),
    Arm(
        name="peer-own",
        title=f"the peer's R, {_OWN}",
        stands_for="Condition 1, first reading",
        table="3",
        settings={"exchange": "peer"},
    ),
    Arm(
        name="peer-shared",
        title=f"the peer's R, {_SHARED}",
        stands_for="Condition 1, first reading",
        table="3",
        settings={"exchange": "peer", "labels": "shared"},
    ),
    Arm(
        name="own-own",
        title=f"its own R, {_OWN}",
        stands_for="Condition 1, second reading",
        table="3",
        settings={"exchange": "own"},
    ),
    Arm(
        name="own-shared",
        title=f"its own R, {_SHARED}",
        stands_for="Condition 1, second reading",
        table="3",
        settings={"exchange": "own", "labels": "shared"},
    ),
    Arm(
        name=PAPER,
        former="alternate-own",
        title=f"own R in even epochs, {_OWN}",
        stands_for="Condition 2",
        table="4",
        settings={"exchange": "alternate"},
    ),
    Arm(
        name="alternate-shared",
        title=f"own R in even epochs, {_SHARED}",
        stands_for="Condition 2",
        table="4",
        settings={"exchange": "alternate", "labels": "shared"},
    ),
    Arm(
        name="alternate-odd-own",
        title=f"own R in odd epochs, {_OWN}",
        stands_for="Condition 2, other parity",
        table="4",
        settings={"exchange": "alternate", "exchange_parity": "odd_own"},
    ),
    Arm(
        name="alternate-odd-shared",
        title=f"own R in odd epochs, {_SHARED}",
        stands_for="Condition 2, other parity",
        table="4",
        settings={"exchange": "alternate", "exchange_parity": "odd_own", "labels": "shared"},
    ),
    Arm(
        name="none-own-steps",
        title=f"no exchange, {_OWN}, at the steps of {PAPER}",
        steps_of=PAPER,
    ),
    Arm(
        name="none-own-more-steps",
        title=f"no exchange, {_OWN}, at the steps of alternate-shared",
        steps_of="alternate-shared",
    ),
    Arm(
        name="none-shared-steps",
        title=f"no exchange, {_SHARED}, at the steps of alternate-shared",
        settings={"labels": "shared"},
        steps_of="alternate-shared",
    ),
    Arm(
        name=VOTE,
        former="one-model",
        title="each model on L_A and L_B from the start: as many epochs, so twice the images",
        settings={"labels": "shared"},
        begins="shared",
    ),
    Arm(
        name="vote-steps",
        former="one-model-steps",
        title="each model on L_A and L_B from the start, at the steps of alternate-shared",
        settings={"labels": "shared"},
        begins="shared",
        steps_of="alternate-shared",
    ),
    Arm(
        name=FIXMATCH,
        title="each model alone: its sure labels of weak views, learned from strong ones",
        stands_for="FixMatch (arXiv 2001.07685)",
        settings={**_ALL_LABELS, "consistency.teacher": "own"},
        begins="shared",
        needs_views=True,
    ),
    Arm(
        name=FREEMATCH,
        title="the same with thresholds that follow the model",
        stands_for="FreeMatch (arXiv 2205.07246)",
        settings={
            **_ALL_LABELS,
            "consistency.teacher": "own",
            "consistency.policy": "free",
            "consistency.fairness": 0.01,
        },
        begins="shared",
        needs_views=True,
    ),
    Arm(
        name=V_PET,
        title="both on the vote's mean probabilities of all of U, from their first weights",
        stands_for="V-PET (arXiv 2503.09707)",
        settings={
            **_ALL_LABELS,
            "exchange": "peer",
            "pool.keep": "probabilities",
            "selection.rule": "mean_soft",
            "selection.threshold": None,
            "selection.targets": "soft",
            "cotrain.epochs_per_round": None,
            "cotrain.restart": "start",
            "train.pseudo_view": "auto",
        },
        begins="shared",
    ),
    Arm(
        name=SYNERGY,
        title="recipe synergy: vote, calibration and the structure of U",
        settings={**RECIPES[SYNERGY], "selection.threshold": None},
        begins="shared",
    ),
    Arm(
        name=VOTE_EQUAL,
        title="each model on L_A and L_B from the start, at the steps of synergy",
        settings={"labels": "shared"},
        begins="shared",
        steps_of=SYNERGY,
        needs_steps=True,
    ),
    Arm(
        name=CEILING,
        title="each model on L_A, L_B and U with true labels, until V no longer rises",
        # Fitted labels end no training whose length V decides.
        settings={"labels": "shared", "pretrain.stop_at_train_accuracy": None},
        begins="all",
        length="trained",
    ),
    Arm(
        name=CEILING_EQUAL,
        former="ceiling",
        title=f"each model on L_A, L_B and U with true labels, at about the images seen by {VOTE}",
        settings={"labels": "shared"},
        begins="all",
        length="images",
    ),
)

BY_NAME = {arm.name: arm for arm in ARMS}

# `ceiling` is not one of them: the name means another arm by now.
ALIASES = {arm.former: arm.name for arm in ARMS if arm.former and arm.former not in BY_NAME}
"""Former names, which `--arms` takes as well."""


def names_by_folder(study_format: int) -> dict[str, str]:
    """Whose part a folder of a seed is, in a study of some format: name of the arm by folder."""
    names = {START: START} | {arm.name: arm.name for arm in ARMS}
    if study_format == 1:
        names |= {arm.former: arm.name for arm in ARMS if arm.former}
    return names


def in_order(names: list[str]) -> list[Arm]:
    """The named arms and those that they need, in the order in which they can run."""
    # One level is enough: no arm follows one that follows another.
    wanted = {*names, *(BY_NAME[name].steps_of for name in names)} - {""}
    return [arm for arm in ARMS if arm.name in wanted]
