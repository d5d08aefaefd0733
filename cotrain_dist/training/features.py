"""`train: head`: the features of a frozen backbone for all images, computed once by its ranks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cotrain_dist.config import DataConfig
from cotrain_dist.data.stream import PixelSource
from cotrain_dist.errors import UserError
from cotrain_dist.method.herding import BLOCK_SIZE, encode_points
from cotrain_dist.models import Preprocessing, features_of, head_of
from cotrain_dist.runtime.collectives import all_gather_json, together
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.features import FeatureStore, default_folder
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import ROLES
from cotrain_dist.version import FEATURES_VERSION

FORWARD_SIZE = 64
"""Images of a forward pass, always: another number may give other last bits, other neighbors of an
image do not."""

MAX_CENTER_ROWS = 20_000
"""Images that the center of joint features is taken from."""


def open_store(
    backbone: nn.Module,
    head: nn.Linear,
    preprocessing: Preprocessing,
    digests: Sequence[str],
    data: DataConfig,
) -> FeatureStore:
    """The store of the features of images by their digests; what is in it, `look` tells.

    Its key names all that decides their bits.
    """
    about = {
        "version": FEATURES_VERSION,
        "torch": torch.__version__,
        "weights": weights_digest(backbone, head),
        "preprocessing": preprocessing.as_timm(),
        "dtype": data.feature_dtype,
    }
    place = Path(data.feature_cache) if data.feature_cache else default_folder()
    return FeatureStore(place, about, digests, head.in_features)


def weights_digest(backbone: nn.Module, head: nn.Linear) -> str:
    """SHA-256 over parameters and buffers, the last layer left out: it decides no feature."""
    digest = hashlib.sha256()
    own = {id(tensor) for tensor in head.parameters()}
    for name, tensor in sorted(backbone.state_dict(keep_vars=True).items()):
        if id(tensor) not in own:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def fill_store(
    store: FeatureStore,
    student: Classifier,
    pixels: PixelSource,
    reporter: Reporter,
    wanted: Tensor | None = None,
) -> None:
    """Collective over the role group: compute what is missing, each rank its blocks, in turn.

    wanted: sample_ids; None is all images. Raises UserError where the folder cannot be written, or
    is not one that all ranks share.
    """
    group, what = student.group, f"features {student.role.name}"
    store.look()
    blocks = range(group.index, store.num_blocks, group.size)
    own = [store.missing(block, wanted) for block in blocks]
    missing = [sample_ids for sample_ids in own if len(sample_ids)]
    num_images = sum(map(len, missing))

    def compute() -> None:
        student.whole.eval()
        with reporter.track(what, num_images) as advance:
            for sample_ids in missing:
                rows = []
                for images in student.inputs(sample_ids.split(FORWARD_SIZE), pixels):
                    rows.append(_features_in_full(student, images))
                    advance(len(images))
                store.write(sample_ids, torch.cat(rows))

    if missing:
        reporter.say(f"{what}: {num_images} images to {store.path}")
    together(compute, group)  # nobody reads before all have written
    together(lambda: check_all(store, wanted), group)


def _features_in_full(student: Classifier, images: Tensor) -> Tensor:
    """Of at most FORWARD_SIZE images, in a batch of that many."""
    filling = images[:1].expand(FORWARD_SIZE - len(images), -1, -1, -1)
    full = student.in_layout(torch.cat([images, filling]))  # which the filling has lost
    return features_of(student.whole, full)[: len(images)]


def check_all(store: FeatureStore, wanted: Tensor | None = None) -> None:
    """Look anew; raise UserError where features are not here that other ranks have written."""
    store.look()
    blocks = range(store.num_blocks)
    absent = sum(len(store.missing(block, wanted)) > 0 for block in blocks)
    if absent:
        raise UserError(
            "data.feature_cache",
            store.path,
            f"{absent} of {store.num_blocks} blocks that other ranks wrote are not here",
            "name a folder that all nodes share",
        )


def both_features(
    classifiers: Sequence[Classifier],
    images: Images,
    ctx: RunContext,
    *,
    folder: str | None = None,
) -> tuple[FeatureStore, FeatureStore]:
    """The features of all images under A and under B, computed where they are not kept.

    Collective over all ranks; each role's ranks compute their own model's, all can read both.
    folder: where they lie, instead of where the settings say.
    """
    data = ctx.config.data if folder is None else replace(ctx.config.data, feature_cache=folder)
    own, digests = {}, images.table.listing.digests
    for classifier in classifiers:
        head = head_of(classifier.whole, f"model_{classifier.role.value}.name")
        store = open_store(classifier.whole, head, classifier.preprocessing, digests, data)
        fill_store(store, classifier, images.pixels, ctx.reporter, images.table.usable_ids)
        own[classifier.role.value] = store.to_json()
    known: dict[str, Any] = {}
    for part in all_gather_json(own, ctx.runtime.control):
        known |= part
    stores = [FeatureStore.from_json(known[role.value], digests) for role in ROLES]
    # The peer's blocks too: without a shared folder they lie on another node.
    for store in stores:
        together(partial(check_all, store, images.table.usable_ids), ctx.runtime.control)
    return stores[0], stores[1]


@dataclass(frozen=True)
class JointFeatures:
    """The features of both models as points of unit length (`method/herding.py`)."""

    stores: tuple[FeatureStore, FeatureStore]
    centers: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, stores: tuple[FeatureStore, FeatureStore], sample_ids: Tensor) -> "JointFeatures":
        """Centered over these images, thinned out where they are very many."""
        ids = sample_ids[:: max(1, -(-len(sample_ids) // MAX_CENTER_ROWS))]
        a, b = (torch.from_numpy(store.read(ids).double().numpy().mean(axis=0)) for store in stores)
        return cls(stores, (a, b))

    def points(self, sample_ids: Tensor) -> Tensor:
        """[n, F] int16."""
        width = sum(store.width for store in self.stores)
        points = torch.empty((len(sample_ids), width), dtype=torch.int16)
        for start in range(0, len(sample_ids), BLOCK_SIZE):
            ids = sample_ids[start : start + BLOCK_SIZE]
            rows = [store.read(ids) for store in self.stores]
            points[start : start + BLOCK_SIZE] = encode_points(rows, list(self.centers))
        return points
