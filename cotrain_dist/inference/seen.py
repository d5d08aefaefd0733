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
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.setup import open_pixels
from cotrain_dist.training.student import Classifier

SIDE = 96
"""Longest side of an image in a report, in pixels."""

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
    classifiers, images, ctx = _open(config, rt)
    table = images.table
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
    tiles = _tiles(classifiers, num_images, SIDE, images, ctx)
    confused = []
    if figures is not None:
        confused = most_confused(figures.labels["ensemble"], figures.targets, NUM_PAIRS)
    name = "" if on is None else on.name  # T is the number 0
    return Seen(tuple(table.class_names), name, figures, before, confused, tiles)


def look_at_pool(config: Config, num_images: int, side: int, rt: Runtime) -> Seen:
    """Collective over all ranks: as `look_at`, of U alone. side: longest of an image, in pixels."""
    classifiers, images, ctx = _open(config, rt)
    tiles = _tiles(classifiers, num_images, side, images, ctx)
    return Seen(tuple(images.table.class_names), "", None, None, [], tiles)


def _open(config: Config, rt: Runtime) -> tuple[list[Classifier], Images, RunContext]:
    ctx, table = together(lambda: open_run(config, rt), rt.control)
    classifiers = together(lambda: load_classifiers(table.class_names, ctx), rt.control)
    pixels = together(lambda: open_pixels(config.data, table.listing, rt, ctx.reporter), rt.control)
    return classifiers, Images(table, pixels), ctx


def _tiles(
    classifiers: list[Classifier], num: int, side: int, images: Images, ctx: RunContext
) -> list[Tile]:
    """Collective over all ranks: of each kind `num`; on the lead rank alone, which shows them."""
    table = images.table
    pool_ids = table.unmarked_pool_ids  # what a person says of these may be learned
    if not len(pool_ids) or not num:
        return []
    probs = gather_probs(classifiers, pool_ids, images, ctx)
    if not ctx.runtime.is_lead:
        return []
    targets = table.class_ids[pool_ids]
    return [
        _tile(kind, int(pool_ids[i]), (probs["a"][i], probs["b"][i]), side, images)
        for kind, places in choose_images(probs["a"], probs["b"], targets, num).items()
        for i in places
    ]


def _tile(
    kind: str, sample_id: int, probs: tuple[Tensor, Tensor], side: int, images: Images
) -> Tile:
    (of_a, of_b), table = probs, images.table
    names = table.class_names
    class_id = int(table.class_ids[sample_id])
    return Tile(
        kind=kind,
        path=table.listing.paths[sample_id],
        truth=names[class_id] if class_id >= 0 else None,
        label_a=names[int(of_a.argmax())],
        label_b=names[int(of_b.argmax())],
        confidence_a=float(of_a.max()),
        confidence_b=float(of_b.max()),
        jpeg=_small(images.pixels.read(sample_id), side),
    )


def _small(image: Image.Image | None, side: int) -> bytes:
    """An image as a small JPEG; a grey one for what cannot be read."""
    own = Image.new("RGB", (side, side), "grey") if image is None else image.convert("RGB")
    own.thumbnail((side, side))
    file = io.BytesIO()
    own.save(file, "JPEG", quality=70)
    return file.getvalue()
