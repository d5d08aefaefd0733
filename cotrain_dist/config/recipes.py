"""Recipes: named sets of defaults. A field that the user gives wins over its recipe's."""

from collections.abc import Mapping
from typing import Any

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # The paper's rule: what every field's own default says.
    "paper": {},
    # Both learn all labels; then, round by round, what their vote and the pool's own structure say
    # of U, each beginning again from Step 1 (docs/recipe.md: what each part is worth).
    "synergy": {
        "labels": "shared",
        "pretrain.labels": "shared",
        "exchange": "peer",
        "pool.keep": "probabilities",
        "structure.kind": "class_means",
        "selection.rule": "mean_soft",
        "selection.targets": "soft",
    },
}


def defaults_of(recipe: str) -> Mapping[str, Any]:
    """The values of a recipe, one of those that `Config.recipe` names, by dotted key."""
    return RECIPES[recipe]
