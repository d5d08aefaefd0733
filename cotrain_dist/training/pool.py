"""The exchange of an epoch: both models vote on U, R_A and R_B are selected and handed round."""

import torch
from torch import Tensor

from cotrain_dist.method.scores import vote
from cotrain_dist.method.selection import label_selected, select_disagreement
from cotrain_dist.method.splits import Group
from cotrain_dist.runtime.collectives import RankGroup, broadcast_bytes, require_equal
from cotrain_dist.training.evaluate import gather_by_role, predict_shard
from cotrain_dist.training.experiment import Experiment
from cotrain_dist.training.student import Student
from cotrain_dist.types import Exchange, PseudoLabeled, Role, Votes


def vote_on_pool(students: list[Student], exp: Experiment) -> Votes:
    """Collective over all ranks: both models' votes on all of U, [2, N], on every rank.

    Each rank passes over its share; 4 bytes an image and model travel.
    """
    pool_ids = exp.table.sample_ids(Group.U)
    with exp.rt.clock.measure("pseudo_label"):
        shards = {
            student.role: _pack_votes(vote(predict_shard(student, pool_ids, "label U:", exp)))
            for student in students
        }
    exp.rt.wait_for_all()
    with exp.rt.clock.measure("exchange"):
        rows = gather_by_role(shards, torch.empty(0, 2, dtype=torch.int16), exp.rt)
        packed = torch.stack([rows[Role.A], rows[Role.B]])
    return Votes(labels=packed[..., 0].view(torch.uint16), doubt=packed[..., 1])


def exchange_selected(votes: Votes, exp: Experiment) -> Exchange:
    """Collective over all ranks: R_A and R_B, selected on the lead rank and broadcast.

    Every rank then shows by digest that it holds the same exchange.
    """
    with exp.rt.clock.measure("exchange"):
        payload = None
        if exp.rt.is_lead:
            selection = select_disagreement(votes, threshold=exp.config.selection.threshold)
            payload = _pack_exchange(
                *label_selected(selection, votes, exp.table.sample_ids(Group.U))
            )
        return broadcast_exchange(payload, exp.rt.control)


def broadcast_exchange(payload: bytes | None, control: RankGroup) -> Exchange:
    """Collective over all ranks: the lead rank's exchange, checked by digest."""
    received = broadcast_bytes(payload, control)
    exchanged = _unpack_exchange(received)
    require_equal(_pack_exchange(exchanged.a, exchanged.b), "the exchange", control)
    return exchanged


def _pack_votes(votes: Votes) -> Tensor:
    """[N, 2] int16: label bits and doubt."""
    return torch.stack([votes.labels.view(torch.int16), votes.doubt], dim=1)


def _pack_exchange(a: PseudoLabeled, b: PseudoLabeled) -> bytes:
    """|R_A|, then ids and labels of R_A and R_B, as int64."""
    parts = [torch.tensor([len(a.labels)]), a.sample_ids, a.labels, b.sample_ids, b.labels]
    return torch.cat(parts).numpy().tobytes()


def _unpack_exchange(payload: bytes) -> Exchange:
    values = torch.frombuffer(bytearray(payload), dtype=torch.int64)
    num_a, rest = int(values[0]), values[1:]
    num_b = len(rest) // 2 - num_a
    ids_a, labels_a, ids_b, labels_b = rest.split([num_a, num_a, num_b, num_b])
    return Exchange(PseudoLabeled(ids_a, labels_a), PseudoLabeled(ids_b, labels_b))
