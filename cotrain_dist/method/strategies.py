"""Names of the ways to choose images to label; without torch, as a command line is checked."""

NEEDS_PROBS = ("least_confidence", "margin", "entropy", "vote_entropy", "committee")
"""Scores of probabilities alone."""

STRATEGIES = (
    *("herding", "herding_rounds", *NEEDS_PROBS),
    *("density", "expected_gradient", "random"),
)

WITHOUT_MODELS = ("herding", "density", "random")
"""Strategies that need no label: features, or nothing."""

LABELS_BY = ("random", "balanced", *(name for name in STRATEGIES if name != "random"))
"""What `reproduce --labels_by` compares."""
