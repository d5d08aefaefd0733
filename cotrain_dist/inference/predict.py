"""A run's models label new images."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cotrain_dist.data.sources.decode import usable_rgb
from cotrain_dist.data.sources.files import images_below, read_file
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.data.stream import PixelSource
from cotrain_dist.errors import UserError
from cotrain_dist.inference.kept import classifiers_of_kept
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.setup import num_readers
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import Prediction

BLOCK_SIZE = 4096
"""Images whose probabilities are gathered at a time: bounds the memory of long predictions."""


def expand_images(patterns: Sequence[str]) -> list[str]:
    """Files, the images below folders, and what globs match; sorted within each, none twice."""
    found: dict[str, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = [str(image) for image in images_below(path)]
        elif path.is_file():
            matches = [pattern]
        else:
            matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(
                "IMAGES", pattern, "matches no image", "name files, folders or quoted globs"
            )
        found |= dict.fromkeys(matches)
    return list(found)


def agree_on_images(patterns: Sequence[str], rt: Runtime) -> list[str]:
    """Collective over all ranks: the lead rank's `expand_images`, on every rank."""
    own = together(lambda: expand_images(patterns) if rt.is_lead else [], rt.control)
    # One rank expands: on another node a glob may match other files.
    files: list[str] = broadcast_json(own, rt.control)
    return files


def predict_files(
    classifiers: Sequence[Classifier], files: Sequence[str], table: SplitTable, ctx: RunContext
) -> Iterator[tuple[list[Prediction], list[str]]]:
    """Collective over all ranks: predictions and broken files, block by block, on every rank.

    A file that cannot be decoded is told apart by logits that are not finite: every rank then
    skips it, whichever rank met it.
    """
    names = table.class_names
    pixels = PixelSource(
        partial(_read_or_none, files), num_readers=num_readers(ctx.config.data, ctx.runtime)
    )
    images = Images(table, pixels)
    with_features, is_kept = classifiers_of_kept(classifiers, files, ctx)
    for start in range(0, len(files), BLOCK_SIZE):
        block = files[start : start + BLOCK_SIZE]
        kept = is_kept[start : start + BLOCK_SIZE]
        # What has features does not pass through the models again.
        parts = [(with_features, kept), (classifiers, ~kept)]
        found = [
            (rows, gather_probs(own, rows + start, images, ctx, reduce=_softmax))
            for own, is_own in parts
            if len(rows := is_own.nonzero().flatten())
        ]
        probs = _together(found, len(block))
        # Broken files keep their rows up to here, so that rows and files stay side by side.
        valid = torch.stack([p.isfinite().all(dim=1) for p in probs.values()]).all(dim=0)
        predictions = [
            prediction_of(block[index], index, probs, names)
            for index in valid.nonzero().flatten().tolist()
        ]
        yield predictions, [block[index] for index in (~valid).nonzero().flatten().tolist()]


def _together(
    parts: Sequence[tuple[Tensor, dict[str, Tensor]]], num_images: int
) -> dict[str, Tensor]:
    """Rows of parts put in their places; at least one part."""
    together = {
        name: values.new_empty(num_images, values.shape[1]) for name, values in parts[0][1].items()
    }
    for rows, probs in parts:
        for name, values in probs.items():
            together[name][rows] = values
    return together


def _softmax(logits: Tensor) -> Tensor:
    """Rows that are not finite stay NaN, where `to_probs` would make them uniform."""
    return logits.softmax(dim=1)


def prediction_of(
    path: str, index: int, probs: Mapping[str, Tensor], names: Sequence[str]
) -> Prediction:
    """What the row `index` of the probabilities says, [n, C] each under a, b and ensemble."""
    tops = {name: values[index].max(dim=0) for name, values in probs.items()}
    labels = {name: names[int(top.indices)] for name, top in tops.items()}
    return Prediction(
        path=path,
        label_a=labels["a"],
        confidence_a=tops["a"].values.item(),
        label_b=labels["b"],
        confidence_b=tops["b"].values.item(),
        label=labels["ensemble"],
        confidence=tops["ensemble"].values.item(),
    )


def _read_or_none(files: Sequence[str], index: int) -> Image.Image | None:
    try:
        return usable_rgb(read_file(Path(files[index])), "IMAGES", files[index])
    except UserError:
        return None
