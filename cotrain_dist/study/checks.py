"""Options and settings that a study cannot be made of; checked before torch is imported."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.config.data import DEFAULT_FRACTION
from cotrain_dist.errors import UserError
from cotrain_dist.method.strategies import LABELS_BY


def with_test(base: Config) -> Config:
    """The settings with a T drawn also where images without labels would leave it out.

    Raises UserError where there is to be none: a study measures on T.
    """
    if base.data.test_fraction is None:
        base = replace(base, data=replace(base.data, test_fraction=DEFAULT_FRACTION))
    if base.data.test_fraction == 0 and not (base.data.test or base.data.test_per_class):
        raise UserError("data.test_fraction", 0, "a study measures on T", "give it 0.2, say")
    return base


def check_settings(base: Config) -> None:
    """Raise UserError for settings that a study cannot keep its promises with."""
    for key, value, wanted, why in (
        ("cotrain.optimizer", base.cotrain.optimizer, "fresh", "arms start from saved models"),
        ("tracking", base.tracking, "none", "a study has tables and figures of its own"),
        ("data.splits_from", base.data.splits_from, None, "each seed draws its own splits"),
        ("data.extra_labels", base.data.extra_labels, None, "put its rows into data.table"),
    ):
        if value != wanted:
            way_out = f"give {wanted or 'null'}"
            raise UserError(key, value, f"does not go with a study: {why}", way_out)
    for section, phase in (("pretrain", base.pretrain), ("cotrain", base.cotrain)):
        if phase.num_epochs == 0:
            raise UserError(
                f"{section}.num_epochs", 0, "a study needs both steps", "give it 1 or more"
            )


def check_label_study(study: Mapping[str, Any]) -> None:
    """Raise UserError for options that do not go together. Keys: the options of the command."""
    if not study["labels_by"] or not study["num_labels"]:
        given = "--labels_by" if study["labels_by"] else "--num_labels"
        missing = "--num_labels" if study["labels_by"] else "--labels_by"
        raise UserError(given, "(alone)", f"needs {missing} as well", f"give {missing}")
    for name in study["labels_by"]:
        if name not in LABELS_BY:
            names = ", ".join(LABELS_BY)
            raise UserError(
                "--labels_by", name, "is no way to choose labels", f"choose from {names}"
            )
    if min(study["num_labels"]) < 1:
        raise UserError("--num_labels", min(study["num_labels"]), "must be at least 1", "try 50")


def check_starts(base: Config) -> None:
    """Raise UserError where a model starts from random weights, on which heads learn nothing."""
    for name in ("a", "b"):
        model = resolve_role(base, name).model
        if not model.pretrained and not model.init_from:
            raise UserError(
                f"model_{name}.pretrained",
                "false",
                "--labels_by fits last layers on a model's features, and random weights have none",
                f"give --model_{name}.pretrained true or FOLDER, or model_{name}.init_from",
            )
