"""Recipes: named sets of defaults. A field that the user gives wins over its recipe's."""

from collections.abc import Mapping
from typing import Any

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # The paper's rule: what every field's own default says.
    "paper": {},
    # Both learn all labels. Then both learn all of U by what their calibrated vote and the pool's
    # own structure say of it together, beginning again from Step 1, which stays models/best unless
    # V shows no loss (docs/recipe.md: what each part is worth, and what was left out).
    "synergy": {
        "labels": "shared",
        "pretrain.labels": "shared",
        "exchange": "peer",
        "pool.keep": "probabilities",
        "structure.kind": "class_means",
        "selection.rule": "mean_soft",
        "selection.targets": "soft",
        "selection.temperature": "auto",
        "train.pseudo_view": "auto",
        "cotrain.epochs_per_round": None,
        "cotrain.restart": "step_one",
        "cotrain.keep_step_one": True,
    },
}

FINAL: Mapping[str, Any] = {
    "exchange": "peer",
    "structure.kind": "off",
    "selection.rule": "mean_soft",
    "selection.threshold": None,
    "selection.threshold_policy": "fixed",
    "selection.top_k_per_class": None,
    "selection.weights": "none",
    "selection.targets": "soft",
    "selection.sharpen": 1.0,
}
"""What `cotrain.final_epochs` are taught by, whatever was before."""


def defaults_of(given: Mapping[str, object]) -> Mapping[str, Any]:
    """The values of the recipe that the given values name, by dotted key."""
    return RECIPES[str(given.get("recipe", "paper"))]
