"""The images of a folder that a run has not seen, as its models are to label them."""

from dataclasses import replace
from pathlib import Path

import torch

from cotrain_dist.config import DataConfig
from cotrain_dist.data.bad_images import printable
from cotrain_dist.data.sources.files import list_without_classes
from cotrain_dist.data.splits import SplitTable, without_bad
from cotrain_dist.method.splits import Split
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.scan import scan_images
from cotrain_dist.training.setup import from_lead, open_pixels


def images_of_folder(
    folder: Path, class_names: tuple[str, ...], ctx: RunContext
) -> tuple[Images, DataConfig]:
    """All images below a folder, as U, and the settings that read them.

    class_names: of the run. Those that cannot be read are named and left out: nothing is learned
    from them. Collective over all ranks. Raises UserError where there is no image.
    """
    data = ctx.config.data
    # The run's other settings stay behind: their rules are about other images.
    data = DataConfig(
        source="imagefolder",
        root=str(folder),
        follow_links=data.follow_links,
        on_bad_image="skip",
        num_workers=data.num_workers,
        cache=data.cache,
        cache_gb=data.cache_gb,
    )
    table = from_lead(lambda: _list(data, class_names), ctx.runtime)
    pixels = open_pixels(data, table.listing, ctx.runtime, ctx.reporter)
    bad = scan_images(table.listing, pixels, ctx.config, ctx.runtime, ctx.reporter)
    for one in bad:
        ctx.reporter.warn(f"left out: {printable(one.path)} ({printable(one.reason)})")
    return Images(without_bad(table, bad), pixels), data


def _list(data: DataConfig, class_names: tuple[str, ...]) -> SplitTable:
    listing = replace(list_without_classes(data), class_names=class_names)
    return SplitTable(listing, torch.full((len(listing.paths),), Split.U, dtype=torch.int64))
