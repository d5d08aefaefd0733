"""What a run's models say of its images now, for a person who wants to see them (`report`)."""

import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.inference.evaluate import Figures, evaluate, load_classifiers, open_run
from cotrain_dist.method.gallery import choose_images
from cotrain_dist.method.metrics import Confusion, most_confused
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import together
from cotrain_dist.training.context import Images
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.setup import open_pixels

SIDE = 96
"""Longest side of a small image, in pixels."""

NUM_PAIRS = 12
"""Pairs of classes that are confused most often."""


@dataclass(frozen=True)
class Tile:
    """An image of U with what both models call it."""

    kind: str
    """Of `method.gallery`."""
    path: str
    truth: str | None
    """The name of its class; None where nobody knows."""
    label_a: str
    label_b: str
    confidence_a: float
    confidence_b: float
    jpeg: bytes
    """Small."""


@dataclass(frozen=True)
class Seen:
    """What both models say of the images with labels, and of some of U."""

    class_names: tuple[str, ...]
    on: str
    """The split that was measured, T or V; empty where the run has neither."""
    figures: Figures | None
    """On it, now."""
    before: Figures | None
    """On it, of both models at the end of Step 1, where the run has kept them."""
    confused: list[Confusion]
    """By the vote of both."""
    tiles: list[Tile]


def look_at(config: Config, num_images: int, rt: Runtime) -> Seen:
    """Collective over all ranks: both models on T (or V) and on U; `config.output_dir` is the run.

    num_images: of each kind. Raises UserError where the run has no saved models, or its images are
    not there any more.
    """
    ctx, table = together(lambda: open_run(config, rt), rt.control)
    classifiers = together(lambda: load_classifiers(table.class_names, ctx), rt.control)
    pixels = together(lambda: open_pixels(config.data, table.listing, rt, ctx.reporter), rt.control)
    images = Images(table, pixels)
    on = next((split for split in (Split.T, Split.V) if len(table.sample_ids(split))), None)
    figures = before = None
    if on is not None:
        ids = table.sample_ids(on)
        figures = evaluate(classifiers, ids, images, ctx)
        if (ctx.store.models / "step_one_a").is_dir():
            earlier = together(
                lambda: load_classifiers(table.class_names, ctx, of="step_one_"), rt.control
            )
            before = evaluate(earlier, ids, images, ctx)
    pool_ids, tiles = table.sample_ids(Split.U), list[Tile]()
    if len(pool_ids) and num_images:
        probs = gather_probs(classifiers, pool_ids, images, ctx)
        targets = table.class_ids[pool_ids]
        chosen = choose_images(probs["a"], probs["b"], targets, num_images)
        if rt.is_lead:
            tiles = [
                _tile(kind, int(pool_ids[place]), probs["a"][place], probs["b"][place], images)
                for kind, places in chosen.items()
                for place in places
            ]
    confused = []
    if figures is not None:
        confused = most_confused(figures.labels["ensemble"], figures.targets, NUM_PAIRS)
    return Seen(tuple(table.class_names), on.name if on else "", figures, before, confused, tiles)


def _tile(kind: str, sample_id: int, of_a: Tensor, of_b: Tensor, images: Images) -> Tile:
    names, table = images.table.class_names, images.table
    class_id = int(table.class_ids[sample_id])
    return Tile(
        kind=kind,
        path=table.listing.paths[sample_id],
        truth=names[class_id] if class_id >= 0 else None,
        label_a=names[int(of_a.argmax())],
        label_b=names[int(of_b.argmax())],
        confidence_a=float(of_a.max()),
        confidence_b=float(of_b.max()),
        jpeg=_small(images.pixels.read(sample_id)),
    )


def _small(image: Image.Image | None) -> bytes:
    """An image as a small JPEG; a grey one for what cannot be read."""
    own = Image.new("RGB", (SIDE, SIDE), "grey") if image is None else image.convert("RGB")
    own.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    own.save(file, "JPEG", quality=70)
    return file.getvalue()
