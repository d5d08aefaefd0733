"""Every image is read once before a training, by all ranks together: what is of no use is found."""

from collections.abc import Sequence
from functools import partial

import torch

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.data.bad_images import in_order
from cotrain_dist.data.sources.listing import UNKNOWN, BadImage, Listing
from cotrain_dist.data.stream import PixelSource
from cotrain_dist.data.views import View, whole_view
from cotrain_dist.models import center_view
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import all_gather_json, together
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.types import ROLES

MOST_THREADS = 8


def scan_images(
    listing: Listing, pixels: PixelSource, config: Config, rt: Runtime, reporter: Reporter
) -> tuple[BadImage, ...]:
    """All that is of no use: what the listing knows, and rows that cannot be read.

    Collective over all ranks, each of which reads its share; all return the same. What can be read
    is kept in the pixel cache, in the views that the models of this config take.
    """
    known = set(listing.bad_ids)
    own = [i for i in range(rt.global_rank, len(listing.paths), rt.num_ranks) if i not in known]
    if listing.source == "digits" and len(set(listing.sources)) == 1:
        own = []  # part of this package's own libraries
    found = together(partial(_scan_own, own, pixels, config, rt, reporter), rt.control)
    parts = all_gather_json(found, rt.control)
    rows = [_bad_row(listing, i, why) for part in parts for i, why in part]
    return in_order([*rows, *listing.bad])


def _scan_own(
    own: Sequence[int], pixels: PixelSource, config: Config, rt: Runtime, reporter: Reporter
) -> list[tuple[int, str]]:
    sample_ids, found = torch.tensor(own, dtype=torch.int64), []
    threads = min(MOST_THREADS, rt.num_cpus)
    # A file system that does not answer is named, as in training.
    with rt.progress.expected(), reporter.track("scan of images", len(own)) as advance:
        for num_done, bad in pixels.check(views_of(config), sample_ids, threads):
            found += bad
            advance(num_done)
    return found


def views_of(config: Config) -> list[View]:
    """The views in which the models of a config take images, each once."""
    views: dict[View, None] = {}
    for role in ROLES:
        own = resolve_role(config, role.value)
        views[center_view(own.image_size, own.center_crop_fraction)] = None
        if own.augmentation != "off" and own.model.train != "head":
            views[whole_view(own.image_size)] = None
    return list(views)


def _bad_row(listing: Listing, sample_id: int, reason: str) -> BadImage:
    class_id = int(listing.class_ids[sample_id])
    return BadImage(
        listing.sources[sample_id],
        listing.paths[sample_id],
        None if class_id == UNKNOWN else listing.class_names[class_id],
        reason,
        sample_id,
    )
