"""What would an exchange teach whose R were right, or larger? Two runs beside the method.

accelerate launch ... benchmarks/what_r_could_teach.py KIND --KEY VALUE ...

KIND `true`: R_A and R_B as the method selects them, each image with its true label in place of the
teacher's. KIND `agreed`: both also hold the images on which A and B agree and both are surer than
the threshold, with the label that they agree on. Everything else is `cotrain-dist train`, whose
settings follow. For measuring alone: `true` gives labels of U away.
"""

import sys

import torch

from cotrain_dist.cli.main import main
from cotrain_dist.method.scores import decode_confidence
from cotrain_dist.method.splits import Split
from cotrain_dist.training import cotrain
from cotrain_dist.training.context import Experiment
from cotrain_dist.training.pool import exchange_selected
from cotrain_dist.types import Exchange, PseudoLabeled, Votes


def with_true_labels(votes: Votes, exp: Experiment) -> Exchange:
    """Collective over all ranks: R_A and R_B, labeled right."""
    exchanged = exchange_selected(votes, exp)
    class_ids = exp.table.class_ids
    return Exchange(
        *(PseudoLabeled(r.sample_ids, class_ids[r.sample_ids]) for r in (exchanged.a, exchanged.b))
    )


def with_agreed(votes: Votes, exp: Experiment) -> Exchange:
    """Collective over all ranks: R_A and R_B, each with all that both call the same and surely."""
    exchanged = exchange_selected(votes, exp)
    labels = votes.labels.to(torch.int64)
    is_sure = (decode_confidence(votes.uncertainty) > exp.config.selection.threshold).all(dim=0)
    agreed = is_sure & (labels[0] == labels[1])
    more = PseudoLabeled(exp.table.sample_ids(Split.U)[agreed], labels[0, agreed])
    return Exchange(_joined(exchanged.a, more), _joined(exchanged.b, more))


def _joined(first: PseudoLabeled, second: PseudoLabeled) -> PseudoLabeled:
    ids, order = torch.cat([first.sample_ids, second.sample_ids]).sort()
    return PseudoLabeled(ids, torch.cat([first.labels, second.labels])[order])


if __name__ == "__main__":
    cotrain.exchange_selected = {"true": with_true_labels, "agreed": with_agreed}[sys.argv[1]]
    sys.exit(main(["train", *sys.argv[2:]]))
