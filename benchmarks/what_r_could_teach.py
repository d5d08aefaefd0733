"""What would an exchange teach whose R were right, or larger? Two runs beside the method.

accelerate launch ... benchmarks/what_r_could_teach.py KIND --KEY VALUE ...

KIND `true`: R_A and R_B as the method selects them, each image with its true label in place of the
teacher's. KIND `agreed`: both also hold the images on which A and B agree and both are surer than
the threshold, with the label that they agree on. Everything else is `cotrain-dist train`, whose
settings follow. For measuring alone: `true` gives labels of U away.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.cli.main import main
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.scores import decode_confidence
from cotrain_dist.training import cotrain as loop
from cotrain_dist.training import train
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.pool import PoolVotes, exchange_selected, hand_over, select_here
from cotrain_dist.types import Exchange, PseudoLabeled

Change = Callable[[SplitTable, PoolVotes, Tensor, RunContext], Exchange]


def with_true_labels(
    table: SplitTable, votes: PoolVotes, pool_ids: Tensor, ctx: RunContext
) -> Exchange:
    """Collective over all ranks: R_A and R_B, labeled right."""
    exchanged = exchange_selected(votes, pool_ids, ctx)
    return Exchange(
        *(
            PseudoLabeled(r.sample_ids, table.class_ids[r.sample_ids])
            for r in (exchanged.a, exchanged.b)
        )
    )


def with_agreed(table: SplitTable, votes: PoolVotes, pool_ids: Tensor, ctx: RunContext) -> Exchange:
    """Collective over all ranks: R_A and R_B, each with all that both call the same and surely."""
    own = select_here(votes, pool_ids, ctx.config.selection)
    for where, block in votes.blocks():
        labels = block.labels.to(torch.int64)
        confidence = decode_confidence(block.uncertainty)
        is_sure = (confidence > ctx.config.selection.cut).all(dim=0)
        agreed = is_sure & (labels[0] == labels[1])
        more = PseudoLabeled(pool_ids[where][agreed], labels[0, agreed])
        own = Exchange(_joined(own.a, more), _joined(own.b, more))
    return hand_over(own, pool_ids, ctx.runtime.control)


def _joined(first: PseudoLabeled, second: PseudoLabeled) -> PseudoLabeled:
    ids, order = torch.cat([first.sample_ids, second.sample_ids]).sort()
    return PseudoLabeled(ids, torch.cat([first.labels, second.labels])[order])


def cotrain_with(change: Change) -> Callable[..., None]:
    """Step 2 with another exchange."""
    cotrain = loop.cotrain

    def changed(students: list[Any], state: Any, images: Images, ctx: RunContext) -> None:
        loop.exchange_selected = partial(change, images.table)
        cotrain(students, state, images, ctx)

    return changed


if __name__ == "__main__":
    train.cotrain = cotrain_with({"true": with_true_labels, "agreed": with_agreed}[sys.argv[1]])
    sys.exit(main(["train", *sys.argv[2:]]))
