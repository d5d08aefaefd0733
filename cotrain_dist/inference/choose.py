"""Which images to ask a person about: the features of both models side by side, and a strategy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cotrain_dist.keys import keyed_generator
from cotrain_dist.method import queries
from cotrain_dist.method.herding import BLOCK_SIZE, Coverage, herd
from cotrain_dist.method.queries import Copies, first_of, in_order
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import (
    RankGroup,
    all_gather_rows,
    broadcast_json,
    together,
)
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training.features import JointFeatures
from cotrain_dist.types import ROLES, Role

MAX_REFERENCE = 10_000
"""Images of the pool that herding stands for; drawn by the seed where there are more."""

Probs = Callable[[Tensor], Tensor]
"""sample_ids [n] -> probabilities [2, n, C] float64 of A and of B."""


def share_heads(
    own: dict[Role, Tensor], stores: tuple[FeatureStore, FeatureStore], rt: Runtime
) -> Probs:
    """What both last layers say, on every rank. Collective over all ranks.

    own: [C, F + 1] float32 of the roles that this rank speaks for, weights and then the bias.
    """
    heads = []
    for role, store in zip(ROLES, stores, strict=True):
        nothing = torch.empty(0, store.width + 1)
        heads.append(torch.cat(all_gather_rows(own.get(role, nothing), rt.control)))
    return partial(_probs, stores, heads)


def head_rows(head: torch.nn.Linear) -> Tensor:
    """A last layer as `share_heads` takes it."""
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach().float().cpu()


def _probs(
    stores: tuple[FeatureStore, FeatureStore], heads: Sequence[Tensor], sample_ids: Tensor
) -> Tensor:
    """[2, n, C] float64."""
    both = []
    for store, head in zip(stores, heads, strict=True):
        logits = torch.nn.functional.linear(store.read(sample_ids), head[:, :-1], head[:, -1])
        both.append(logits.double().softmax(dim=1))
    return torch.stack(both)


@dataclass(frozen=True)
class Query:
    """What is asked for."""

    strategy: str
    """One of `strategies.STRATEGIES`; those outside of WITHOUT_MODELS need probabilities."""
    num: int
    seed: int
    near: float = 0.0
    """Distance of unit-length features (0..2) below which two images count as one."""
    is_grouped: bool = False
    """Whether one answer is to serve all images of a group (`method.groups`)."""
    with_votes: bool = False
    """Whether what both models say of the images is asked for as well."""


def choose(
    query: Query,
    candidates: Tensor,
    labeled: Tensor,
    features: JointFeatures,
    probs: Probs | None,
    group: RankGroup,
) -> list[int]:
    """sample_ids to label, the most worth first; at most `query.num`. Collective over the group.

    candidates: [n] int64 sample_ids of images that may be chosen. labeled: those that have a label.
    probs: of heads that were fitted on these labels; None before there are any.
    """
    if query.strategy in ("herding", "herding_rounds"):
        rows = _herd(query, candidates, labeled, features, probs, group)
    else:
        rows = together(
            lambda: _rank(query, candidates, labeled, features, probs) if not group.index else [],
            group,
        )
    chosen: list[int] = broadcast_json(candidates[rows].tolist(), group)
    return chosen


def _herd(
    query: Query,
    candidates: Tensor,
    labeled: Tensor,
    features: JointFeatures,
    probs: Probs | None,
    group: RankGroup,
) -> list[int]:
    """Rows of the candidates on the group's first rank; the first gains are shared out."""
    reference = reference_of(candidates, query.seed)
    weights, sigma = None, 1.0
    labeled_points = features.points(labeled)
    if query.strategy == "herding_rounds":
        assert probs is not None
        # Where the vote is sure, nothing is to be learned: only doubtful images are stood for.
        weights = queries.margin(_in_blocks(lambda ids: probs(ids).mean(dim=0), reference))
        sigma = queries.sigma_of_rounds(labeled_points)
    coverage = Coverage.of(features.points(reference), weights=weights, sigma=sigma)
    coverage.choose(labeled_points)
    blocks = candidates.split(BLOCK_SIZE)
    own = [coverage.gains(features.points(ids)) for ids in blocks[group.index :: group.size]]
    parts = all_gather_rows(torch.cat([torch.empty(0, dtype=torch.float64), *own]), group)
    if group.index:
        return []
    gains = torch.empty(len(candidates), dtype=torch.float64)
    for index, part in enumerate(parts):
        places = torch.arange(len(candidates)).split(BLOCK_SIZE)[index :: group.size]
        if places:
            gains[torch.cat(places)] = part
    points = features.points(candidates)
    is_copy = Copies(points, labeled_points, query.near)
    return herd(coverage, points, query.num, gains=gains, is_copy=is_copy)


def reference_of(candidates: Tensor, seed: int) -> Tensor:
    """The images that herding stands for: all candidates, or a keyed draw of them, ascending."""
    if len(candidates) <= MAX_REFERENCE:
        return candidates
    order = torch.randperm(len(candidates), generator=keyed_generator(seed, "reference"))
    return candidates[order[:MAX_REFERENCE].sort().values]


def _rank(
    query: Query,
    candidates: Tensor,
    labeled: Tensor,
    features: JointFeatures,
    probs: Probs | None,
) -> list[int]:
    """Rows of the candidates by falling score."""
    if query.strategy == "random":
        generator = keyed_generator(query.seed, "random labels")
        order: list[int] = torch.randperm(len(candidates), generator=generator).tolist()
    else:
        order = in_order(_scores(query, candidates, features, probs))
    if query.near <= 0.0:
        return order[: query.num]
    points = features.points(candidates)
    return first_of(order, query.num, Copies(points, features.points(labeled), query.near))


def _scores(
    query: Query, candidates: Tensor, features: JointFeatures, probs: Probs | None
) -> Tensor:
    """[n] float64, larger is asked sooner."""
    if query.strategy == "density":
        reference = features.points(reference_of(candidates, query.seed))
        similarity = queries.mean_similarity(features.points(candidates), reference)
        if probs is None:
            return queries.density(similarity)
        doubt = _in_blocks(lambda ids: queries.entropy(probs(ids).mean(dim=0)), candidates)
        return queries.density(similarity, doubt)
    assert probs is not None
    return _in_blocks(
        lambda ids: _score_block(query.strategy, probs(ids), ids, features), candidates
    )


def _score_block(strategy: str, probs: Tensor, ids: Tensor, features: JointFeatures) -> Tensor:
    vote = probs.mean(dim=0)
    match strategy:
        case "least_confidence":
            return queries.least_confidence(vote)
        case "margin":
            return queries.margin(vote)
        case "entropy":
            return queries.entropy(vote)
        case "committee":
            return queries.committee(probs)
        case "vote_entropy":
            return queries.vote_entropy(probs)
        case "expected_gradient":
            lengths = [
                queries.expected_gradient(own, store.read(ids))
                for own, store in zip(probs, features.stores, strict=True)
            ]
            return torch.stack(lengths).mean(dim=0)
    raise AssertionError(strategy)


def _in_blocks(work: Callable[[Tensor], Tensor], sample_ids: Tensor) -> Tensor:
    """Rows of some images, block by block: all probabilities of a large pool would not fit."""
    return torch.cat([work(ids) for ids in sample_ids.split(4096)])
