"""What the pool's own structure says: the votes on U, corrected by where its images lie.

Every rank works on fixed chunks of the images, whatever the number of ranks, and what is summed
over ranks are whole numbers: so all worlds find the same bits. Both models' features lie on disk,
where every rank can read them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from cotrain_dist.config import StructureConfig
from cotrain_dist.method.class_means import (
    ClassMeans,
    Floats,
    Points,
    Shares,
    Whitening,
    anchored,
    class_sums,
    encode_roots,
    moments_of,
    shares_of,
)
from cotrain_dist.method.placement import chunks_of_rank
from cotrain_dist.method.splits import Split
from cotrain_dist.method.spreading import (
    Neighbors,
    build_graph,
    find_neighbors,
    spread_labels,
    to_distribution,
)
from cotrain_dist.runtime.collectives import RankGroup, all_gather_rows, sum_over
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.features import JointFeatures
from cotrain_dist.types import Role

CHUNK_SIZE = 1024
"""Images that are worked on at a time, always the same ones."""


def correct_by_structure(
    vote: Tensor, stores: Sequence[FeatureStore], images: Images, ctx: RunContext
) -> Tensor:
    """Class probabilities of U after `structure.kind`; equal on every rank.

    vote: [N, C] float16, the mean of both models' probabilities of U, equal on every rank.
    Returns [N, C] float64. Collective over all ranks.
    """
    structure = ctx.config.structure
    match structure.kind:
        case "off":
            return vote.double()
        case "class_means":
            return fit_class_means(vote, stores, images, structure, ctx.runtime.control)
        case "graph":
            return spread_over_graph(vote, stores, images, structure, ctx.runtime.control)
        case _:
            raise AssertionError(f"structure.kind {structure.kind} is no value of the config")


def fit_class_means(
    vote: Tensor,
    stores: Sequence[FeatureStore],
    images: Images,
    structure: StructureConfig,
    control: RankGroup,
) -> Tensor:
    """EM of one mixture per model, both on one posterior (`method/class_means.py`).

    Collective over all ranks. vote and what is returned: as in `correct_by_structure`.
    """
    with threadpool_limits(limits=1):  # more threads would round otherwise
        own = _own_part(vote, stores, images, structure, control)
        for _ in range(structure.num_iterations):
            own.learn(own.means(structure, control), structure.vote_weight)
        probs = own.probs_of_pool()
    parts = all_gather_rows(torch.from_numpy(probs), control)
    return torch.cat(parts)


def spread_over_graph(
    vote: Tensor,
    stores: Sequence[FeatureStore],
    images: Images,
    structure: StructureConfig,
    control: RankGroup,
) -> Tensor:
    """Labels of L and votes on U, spread over the nearest neighbors (`method/spreading.py`).

    Collective over all ranks: each finds the neighbors of its part of the images and spreads its
    part of the classes. vote and what is returned: as in `correct_by_structure`.
    """
    ids = _learned_ids(images)
    points = JointFeatures.of((stores[0], stores[1]), ids).points(ids)
    own = range_of_rank(len(ids), control.index, control.size)
    found = find_neighbors(points, own, structure.num_neighbors)
    rows = torch.cat([found.ids, found.products], dim=1)
    ids_and_products = torch.cat(all_gather_rows(rows, control)).chunk(2, dim=1)
    graph = build_graph(Neighbors(*ids_and_products), structure.neighbor_power)
    seeds, pool = (values.numpy() for values in _said_of(ids, vote, images))
    classes = range_of_rank(vote.shape[1], control.index, control.size)
    spread = spread_labels(
        graph,
        seeds[:, classes.start : classes.stop],
        alpha=structure.spread,
        num_steps=structure.num_steps,
    )
    columns = torch.from_numpy(spread).T.contiguous()
    probs = to_distribution(torch.cat(all_gather_rows(columns, control)).T.numpy())
    return torch.from_numpy(anchored(seeds[pool], probs[pool], structure.vote_weight))


def range_of_rank(num_items: int, index: int, num_ranks: int) -> range:
    """The contiguous part of some items that falls to a rank."""
    bounds = chunks_of_rank(num_items, 1, index, num_ranks)
    return range(bounds[0][0], bounds[-1][1]) if bounds else range(0)


@dataclass
class _Chunk:
    """Some images, labeled or of U, in the order of their ids."""

    points: list[Points]
    """Whitened, of each model."""
    in_pool: np.ndarray
    """[n] bool."""
    vote: Floats
    """[n, C]: what both models say of those of U; the label of the others."""
    probs: Floats
    """[n, C]: what is held of them now."""


@dataclass
class _Part:
    """The chunks of this rank."""

    chunks: list[_Chunk]
    num_classes: int
    widths: list[int]

    def means(self, structure: StructureConfig, control: RankGroup) -> list[ClassMeans]:
        """Collective: each model's mixture, fitted to what is held of all images."""
        sums = [np.zeros((self.num_classes, width)) for width in self.widths]
        counts: Shares = np.zeros(self.num_classes, dtype=np.int64)
        for chunk in self.chunks:
            shares = shares_of(chunk.probs)
            counts += shares.sum(axis=0)
            for total, points in zip(sums, chunk.points, strict=True):
                total += class_sums(points, shares)
        all_counts = sum_over(torch.from_numpy(counts), control).numpy()
        return [
            ClassMeans.of(
                sum_over(torch.from_numpy(total), control).numpy(),
                all_counts,
                concentration=structure.concentration,
                prior_power=structure.prior_power,
            )
            for total in sums
        ]

    def learn(self, means: Sequence[ClassMeans], vote_weight: float) -> None:
        """Hold of U what the mixtures and the vote say."""
        for chunk in self.chunks:
            found = [own.probs(points) for own, points in zip(means, chunk.points, strict=True)]
            both = anchored(chunk.vote, (found[0] + found[1]) / 2, vote_weight)
            chunk.probs = np.where(chunk.in_pool[:, None], both, chunk.vote)

    def probs_of_pool(self) -> Floats:
        """[n, C] of this rank's images of U."""
        nothing = np.zeros((0, self.num_classes))
        return np.concatenate([nothing, *(chunk.probs[chunk.in_pool] for chunk in self.chunks)])


def _own_part(
    vote: Tensor,
    stores: Sequence[FeatureStore],
    images: Images,
    structure: StructureConfig,
    control: RankGroup,
) -> _Part:
    """Collective over all ranks: this rank's chunks, whitened over the images of all."""
    ids = _learned_ids(images)
    bounds = chunks_of_rank(len(ids), CHUNK_SIZE, control.index, control.size)
    own = [ids[start:stop] for start, stop in bounds]
    whitenings = [_whitening(store, own, len(ids), structure, control) for store in stores]
    chunks = []
    for chunk_ids in own:
        said, in_pool = (values.numpy() for values in _said_of(chunk_ids, vote, images))
        points = [
            whitening.apply(encode_roots(store.read(chunk_ids).numpy()))
            for whitening, store in zip(whitenings, stores, strict=True)
        ]
        chunks.append(_Chunk(points, in_pool, said, said))
    return _Part(chunks, vote.shape[1], [store.width for store in stores])


def _learned_ids(images: Images) -> Tensor:
    """L and U, ascending."""
    learned = torch.tensor([Split.L_A, Split.L_B, Split.U])
    return torch.isin(images.table.splits, learned).nonzero().flatten()


def _said_of(ids: Tensor, vote: Tensor, images: Images) -> tuple[Tensor, Tensor]:
    """[n, C] float64: labels of L, votes on U; and [n] bool, whether an image is of U."""
    in_pool = images.table.splits[ids] == Split.U
    said = torch.zeros(len(ids), vote.shape[1], dtype=torch.float64)
    places = torch.searchsorted(images.table.sample_ids(Split.U), ids[in_pool])
    said[in_pool] = vote[places].double()
    labeled = images.table.labeled(Role.A, "shared")
    places = torch.searchsorted(labeled.sample_ids, ids[~in_pool])
    said[~in_pool] = F.one_hot(labeled.targets[places], vote.shape[1]).double()
    return said, in_pool


def _whitening(
    store: FeatureStore,
    own: Sequence[Tensor],
    num_images: int,
    structure: StructureConfig,
    control: RankGroup,
) -> Whitening:
    """Collective over all ranks: from the features of all images that are learned from."""
    total, products = np.zeros(store.width), np.zeros((store.width, store.width))
    for points in _roots(store, own):
        moments = moments_of(points)
        total += moments[0]
        products += moments[1]
    total = sum_over(torch.from_numpy(total), control).numpy()
    products = sum_over(torch.from_numpy(products), control).numpy()
    return Whitening.of(total, products, num_images, structure.shrinkage)


def _roots(store: FeatureStore, own: Sequence[Tensor]) -> Iterator[Points]:
    for ids in own:
        yield encode_roots(store.read(ids).numpy())
