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
        "cotrain.keep_step_one": True,
        "pool.keep": "probabilities",
        "structure.kind": "class_means",
        "selection.rule": "mean_soft",
        "selection.targets": "soft",
    },
}


OF_HEADS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    # Whole models that learn all labels could be calibrated on V alone.
    "synergy": {"selection.temperature": "fitted"},
}
"""What is added where both models train their last layers alone."""


def defaults_of(given: Mapping[str, object]) -> dict[str, Any]:
    """The values of the recipe that the given values name, by dotted key."""
    recipe = str(given.get("recipe", "paper"))
    are_heads = all(given.get(f"model_{name}.train") == "head" for name in ("a", "b"))
    return {**RECIPES[recipe], **(OF_HEADS[recipe] if are_heads else {})}
