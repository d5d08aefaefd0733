"""What `reproduce` compares, and the settings of each."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cotrain_dist.config import Config, ModelConfig, resolve_role

START = "start"
"""The part that pre-trains A and B once for all conditions of a seed."""

SPLITS_OF_CEILING = "splits-ceiling.parquet"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A condition or a baseline."""

    name: str
    title: str
    stands_for: str = ""
    """What of the paper it is a reading of."""
    table: str = ""
    """Number of the paper's table to put beside it."""
    exchange: Literal["alternate", "peer", "own", "none"] = "none"
    parity: Literal["even_own", "odd_own"] = "even_own"
    labels: Literal["own", "shared"] = "own"
    begins: Literal["pretrained", "shared", "all"] = "pretrained"
    """From the seed's pre-trained A and B; or anew, in Step 1 on L_A and L_B together, or on L_A,
    L_B and U with true labels."""
    steps_of: str = ""
    """Train at least the steps that this arm took, in whole epochs, instead of as many epochs."""


_OWN, _SHARED = "labels own", "labels shared"

# In an order in which they can run: an arm stands behind the one whose steps it takes.
ARMS = (
    Arm(name="none-own", title=f"no exchange, {_OWN}", stands_for="Table 2", table="2"),
    Arm(
        name="none-shared",
        title=f"no exchange, {_SHARED}",
        stands_for="Condition 1, third reading",
        table="3",
        labels="shared",
    ),
    Arm(
        name="peer-own",
        title=f"the peer's R, {_OWN}",
        stands_for="Condition 1, first reading",
        table="3",
        exchange="peer",
    ),
    Arm(
        name="peer-shared",
        title=f"the peer's R, {_SHARED}",
        stands_for="Condition 1, first reading",
        table="3",
        exchange="peer",
        labels="shared",
    ),
    Arm(
        name="own-own",
        title=f"its own R, {_OWN}",
        stands_for="Condition 1, second reading",
        table="3",
        exchange="own",
    ),
    Arm(
        name="own-shared",
        title=f"its own R, {_SHARED}",
        stands_for="Condition 1, second reading",
        table="3",
        exchange="own",
        labels="shared",
    ),
    Arm(
        name="alternate-own",
        title=f"own R in even epochs, {_OWN}",
        stands_for="Condition 2",
        table="4",
        exchange="alternate",
    ),
    Arm(
        name="alternate-shared",
        title=f"own R in even epochs, {_SHARED}",
        stands_for="Condition 2",
        table="4",
        exchange="alternate",
        labels="shared",
    ),
    Arm(
        name="alternate-odd-own",
        title=f"own R in odd epochs, {_OWN}",
        stands_for="Condition 2, other parity",
        table="4",
        exchange="alternate",
        parity="odd_own",
    ),
    Arm(
        name="alternate-odd-shared",
        title=f"own R in odd epochs, {_SHARED}",
        stands_for="Condition 2, other parity",
        table="4",
        exchange="alternate",
        parity="odd_own",
        labels="shared",
    ),
    Arm(
        name="none-own-steps",
        title=f"no exchange, {_OWN}, at the steps of alternate-own",
        steps_of="alternate-own",
    ),
    Arm(
        name="none-own-more-steps",
        title=f"no exchange, {_OWN}, at the steps of alternate-shared",
        steps_of="alternate-shared",
    ),
    Arm(
        name="none-shared-steps",
        title=f"no exchange, {_SHARED}, at the steps of alternate-shared",
        labels="shared",
        steps_of="alternate-shared",
    ),
    Arm(
        name="one-model",
        title="one model on L_A and L_B from the start: as many epochs, so twice the images",
        labels="shared",
        begins="shared",
    ),
    Arm(
        name="one-model-steps",
        title="one model on L_A and L_B from the start, at the steps of alternate-shared",
        labels="shared",
        begins="shared",
        steps_of="alternate-shared",
    ),
    Arm(
        name="ceiling",
        title="one model on L_A, L_B and U with true labels, at about the images seen by one-model",
        labels="shared",
        begins="all",
    ),
)

CHOSEN_SPLITS = "chosen.parquet"
"""In the folder of a seed: splits whose labels were chosen (`study/labels_by.py`), not drawn."""

VOTE = "vote"
"""Both models on all labels, and the mean of their probabilities: the ensemble of `one-model`."""

ALIASES = {VOTE: "one-model"}

BY_NAME = {arm.name: arm for arm in ARMS}


def in_order(names: list[str]) -> list[Arm]:
    """The named arms and those that they need, in the order in which they can run."""
    # One level is enough: no arm follows one that follows another.
    wanted = {*names, *(BY_NAME[name].steps_of for name in names)} - {""}
    return [arm for arm in ARMS if arm.name in wanted]


def start_config(base: Config, seed: int, folder: Path) -> Config:
    """Step 1 alone, with its measurement: A and B for all conditions of a seed."""
    config = replace(base, seed=seed, output_dir=str(folder / START))
    chosen = folder / CHOSEN_SPLITS
    if chosen.is_file():
        config = replace(config, data=replace(config.data, splits_from=str(chosen)))
    return step_one_alone(config)


def step_one_alone(config: Config) -> Config:
    """Each model on its own labels; what Step 2 would do is set to one value for all."""
    return replace(
        config,
        # Step 1 uses none of these, but a part that is begun refuses other settings, and all arms
        # share it.
        exchange="alternate",
        exchange_parity="even_own",
        labels="own",
        pretrain=replace(config.pretrain, labels="own"),
        cotrain=replace(config.cotrain, num_epochs=0),
    )


def arm_config(arm: Arm, base: Config, seed: int, folder: Path, num_epochs: int) -> Config:
    """The settings of an arm in the folder of its seed; num_epochs of Step 2."""
    start = folder / START
    config = replace(
        base,
        seed=seed,
        output_dir=str(folder / arm.name),
        exchange=arm.exchange,
        exchange_parity=arm.parity,
        labels=arm.labels,
        data=replace(base.data, splits_from=str(start)),
        cotrain=replace(base.cotrain, num_epochs=num_epochs),
    )
    if arm.begins == "pretrained":
        return replace(
            config,
            pretrain=replace(base.pretrain, num_epochs=0),
            # The models of `start` began with published weights already, where these are asked for.
            model_a=_begun(base, "a", start),
            model_b=_begun(base, "b", start),
        )
    return replace(config, pretrain=replace(base.pretrain, labels="shared"))


def _begun(base: Config, name: str, start: Path) -> ModelConfig:
    """A model that begins with the weights of the part `start`: the same one, of the same size."""
    own: ModelConfig = getattr(base, f"model_{name}")
    if isinstance(own.pretrained, str):  # the folder said what else would be said nowhere
        resolved = resolve_role(base, name)
        own = replace(own, name=resolved.name, image_size=resolved.image_size)
    return replace(own, pretrained=False, init_from=str(start / "models" / name))


def with_num_epochs(config: Config, num_epochs: int) -> Config:
    """Step 1 in another number of epochs; the warm-up keeps its share of them."""
    # Rounded down, so that the warm-up stays below the epochs, as the settings demand.
    warmup = config.pretrain.num_warmup_epochs * num_epochs // config.pretrain.num_epochs
    pretrain = replace(config.pretrain, num_epochs=num_epochs, warmup_epochs=warmup)
    return replace(config, pretrain=pretrain)


def ceiling_config(config: Config, folder: Path, num_labeled: int, num_all: int) -> Config:
    """`one-model` on more labels, each epoch longer: fewer epochs, so that it sees as many images.

    config: of the arm `ceiling`, with the epochs of one-model. num_labeled: images of L_A and L_B;
    num_all: and of U. At least one epoch of Step 1; Step 2 has what is left of the sum.
    """
    factor = num_all / num_labeled
    num_epochs = round((config.pretrain.num_epochs + config.cotrain.num_epochs) / factor)
    longer = with_num_epochs(config, math.ceil(config.pretrain.num_epochs / factor))
    num_left = max(0, num_epochs - longer.pretrain.num_epochs)
    warmup = min(int(config.cotrain.num_warmup_epochs / factor), max(0, num_left - 1))
    cotrain = replace(config.cotrain, num_epochs=num_left, warmup_epochs=warmup)
    data = replace(config.data, splits_from=str(folder / SPLITS_OF_CEILING))
    return replace(longer, data=data, cotrain=cotrain)
