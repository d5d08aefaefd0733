"""The settings of every part of a study."""

import math
from dataclasses import asdict, replace
from pathlib import Path

from cotrain_dist.config import Config, ModelConfig, resolve_role
from cotrain_dist.config.recipes import RECIPES
from cotrain_dist.config.text import flatten, with_settings
from cotrain_dist.study.arms import ARMS, START, SYNERGY, Arm
from cotrain_dist.types import ROLES

CHOSEN_SPLITS = "chosen.parquet"
"""In the folder of a seed: splits whose labels were chosen (`study/labels_by.py`), not drawn."""

SPLITS_OF_CEILING = "splits-ceiling.parquet"

CEILING_PATIENCE_EPOCHS = 10
"""Of `ceiling`, where the settings give no `pretrain.patience_epochs`."""

DECIDED_BY_PART = {"seed", "output_dir", "pretrain.labels"}.union(
    set.intersection(*(set(arm.decided) for arm in ARMS))
)
"""Keys that every part is given by its arm or its seed, so that the user's value decides nothing.
What only some arms decide is the user's in the others."""


def has_views(base: Config) -> bool:
    """Whether both models are trained on augmented images: the arms of `needs_views`."""
    roles = [resolve_role(base, role.value) for role in ROLES]
    return all(own.model.train == "all" and own.augmentation != "off" for own in roles)


def has_steps(base: Config) -> bool:
    """Whether a model is trained whole, by steps: the arms of `needs_steps`."""
    return any(resolve_role(base, role.value).model.train == "all" for role in ROLES)


def without_recipe(base: Config) -> Config:
    """The settings with those of `recipe: paper` where another recipe has decided."""
    if base.recipe == "paper":
        return base
    paper = flatten(asdict(Config()))
    return with_settings(
        base, {"recipe": "paper"} | {key: paper[key] for key in RECIPES[base.recipe]}
    )


def start_config(base: Config, seed: int, folder: Path) -> Config:
    """Step 1 alone, with its measurement: A and B for all conditions of a seed."""
    config = replace(without_recipe(base), seed=seed, output_dir=str(folder / START))
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
    of_part = {
        "seed": seed,
        "output_dir": str(folder / arm.name),
        "data.splits_from": str(start),
        "cotrain.num_epochs": num_epochs,
    }
    # Who names the recipe may change it, and compares what is left of it with all other arms.
    is_own = arm.name == SYNERGY and base.recipe == SYNERGY
    config = base if is_own else with_settings(without_recipe(base), arm.decided)
    config = with_settings(config, of_part)
    if arm.begins == "pretrained":
        return replace(
            config,
            pretrain=replace(config.pretrain, num_epochs=0),
            # The models of `start` began with published weights already, where these are asked for.
            model_a=_begun(config, "a", start),
            model_b=_begun(config, "b", start),
        )
    return replace(config, pretrain=replace(config.pretrain, labels="shared"))


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


def ceiling_config(
    arm: Arm, config: Config, folder: Path, num_labeled: int, num_all: int
) -> Config:
    """Of an arm that learns U with true labels; config: of the arm, with the epochs of `vote`.

    num_labeled: images of L_A and L_B; num_all: and of U.
    """
    data = replace(config.data, splits_from=str(folder / SPLITS_OF_CEILING))
    config = replace(config, data=data)
    return (
        with_images_of_vote(config, num_all / num_labeled)
        if arm.length == "images"
        else until_trained(config)
    )


def until_trained(config: Config) -> Config:
    """Step 1 ends once V has not risen for some epochs, or without a V after all its epochs.

    Step 2 follows in full, so that the rate falls to its end wherever Step 1 has stopped.
    """
    if not config.data.validation_fraction:
        return config
    patience = config.pretrain.patience_epochs or CEILING_PATIENCE_EPOCHS
    return replace(config, pretrain=replace(config.pretrain, patience_epochs=patience))


def with_images_of_vote(config: Config, factor: float) -> Config:
    """Fewer epochs, each of `factor` times the images, so that about as many images are seen.

    At least one epoch of Step 1; Step 2 has what is left of the sum.
    """
    num_epochs = round((config.pretrain.num_epochs + config.cotrain.num_epochs) / factor)
    longer = with_num_epochs(config, math.ceil(config.pretrain.num_epochs / factor))
    num_left = max(0, num_epochs - longer.pretrain.num_epochs)
    warmup = min(int(config.cotrain.num_warmup_epochs / factor), max(0, num_left - 1))
    return replace(
        longer, cotrain=replace(config.cotrain, num_epochs=num_left, warmup_epochs=warmup)
    )
