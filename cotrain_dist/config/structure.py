"""Settings of what the images of U say about each other."""

from dataclasses import dataclass
from typing import Literal

from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """Class probabilities of U, corrected by where the images lie among each other."""

    kind: Literal["off", "class_means", "graph"] = "off"
    """`class_means`: one direction per class in whitened features, fitted to L and U by EM.
    `graph`: labels spread over the nearest neighbors of each image. Both need the probabilities of
    all classes (`pool.keep`)."""
    features: Literal["auto", "start", "current"] = "auto"
    """Of which weights: those that the models began with, computed once and kept for all runs, or
    those that they have at the beginning of a round. `auto`: `start`, unless they begin at random.
    """
    vote_weight: float = 0.5
    """Share of the models' vote (0 to 1) in the geometric mean with what is found."""
    shrinkage: float = 0.3
    """class_means: times the mean variance, is added to the variance of each direction."""
    concentration: float = 45.0
    """class_means: how sharply a class falls off with the angle (the kappa of von Mises-Fisher)."""
    prior_power: float = 1.0
    """class_means: 1 lets a class weigh as much as it has images, 0 all classes alike."""
    num_iterations: int = 8
    """class_means: steps of EM."""
    num_neighbors: int = 15
    """graph: neighbors of each image."""
    neighbor_power: float = 3.0
    """graph: power of the cosine that an edge weighs."""
    spread: float = 0.7
    """graph: what an image takes from its neighbors in a step, the rest from its own seed (0 to 1,
    both left out)."""
    num_steps: int = 15
    """graph: steps of spreading."""

    def __post_init__(self) -> None:
        _check_between("vote_weight", self.vote_weight, 0.0, 1.0)
        _check_between("prior_power", self.prior_power, 0.0, 1.0)
        if not 0.0 < self.spread < 1.0:
            raise UserError("structure.spread", self.spread, "must lie between 0 and 1", "try 0.7")
        for name in ("shrinkage", "concentration", "neighbor_power"):
            if getattr(self, name) <= 0.0:
                raise UserError(
                    f"structure.{name}",
                    getattr(self, name),
                    "must be above 0",
                    "leave it out for the default",
                )
        for name in ("num_iterations", "num_neighbors", "num_steps"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"structure.{name}",
                    getattr(self, name),
                    "must be at least 1",
                    "leave it out for the default",
                )


def _check_between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UserError(
            f"structure.{name}",
            value,
            f"must be at least {least:g} and at most {most:g}",
            "leave it out for the default",
        )
