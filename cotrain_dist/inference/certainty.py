"""How often a run's labels are right, by their confidence: estimated from labels not learned.

From V, or else from folds of L, which a training of heads leaves in run.json (`training/folds.py`).
Never from an audit: an answer that has been used once could no longer carry a promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cotrain_dist.method.certainty import LEAST_IMAGES, Certainty, fit_certainty
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.collectives import together
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.student import Classifier

COLUMN = "probability_right"


@dataclass(frozen=True)
class Estimated:
    """The curve, and a line on where it comes from, or why there is none."""

    certainty: Certainty | None
    line: str

    def of(self, confidences: Tensor) -> list[float] | list[None]:
        """[n] confidences -> the estimates, or as many None."""
        if self.certainty is None:
            return [None] * len(confidences)
        found: list[float] = self.certainty.of(confidences).tolist()
        return found


OF_OTHERS = Estimated(
    None, f"{COLUMN} is empty: an estimate from the run's images says nothing of other ones"
)


def estimate_certainty(
    classifiers: Sequence[Classifier], images: Images, ctx: RunContext
) -> Estimated:
    """Collective over all ranks, and equal on all of them."""
    ids = images.table.sample_ids(Split.V)
    if len(ids) >= LEAST_IMAGES:
        tops = gather_probs(classifiers, ids, images, ctx)["ensemble"].max(dim=1)
        found = fit_certainty(tops.values, tops.indices == images.table.class_ids[ids])
        return Estimated(found, f"{COLUMN}: an estimate from the {len(ids)} images of V")
    found = together(lambda: _by_folds(ctx.store), ctx.runtime.control)
    return Estimated(found, _line_without_v(len(ids), found))


def _by_folds(store: RunDirectory) -> Certainty | None:
    """What the training has left."""
    is_there = (store.path / "run.json").is_file()
    kept = store.read_json("run.json").get("certainty") if is_there else None
    return None if kept is None else Certainty(**kept)


def _line_without_v(num_in_v: int, by_folds: Certainty | None) -> str:
    if by_folds is not None:
        num = by_folds.num_images
        return f"{COLUMN}: an estimate from {num} images of L, by folds that have not learned them"
    way_out = "data.validation_fraction 0.1 draws a V"
    if num_in_v:
        return f"{COLUMN} is empty: V has {num_in_v} images, {LEAST_IMAGES} are needed"
    return f"{COLUMN} is empty: the run has no V and no folds of L to estimate it from; {way_out}"
