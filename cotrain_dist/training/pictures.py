"""Pictures for a tracker: some of the images that each model learned, with what both call them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cotrain_dist.data.views import View
from cotrain_dist.errors import UserError
from cotrain_dist.method.scores import decode_confidence
from cotrain_dist.method.splits import Split
from cotrain_dist.printable import printable
from cotrain_dist.runtime.tracking import takes_images, track_images
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.pool import PoolVotes, unpack_votes
from cotrain_dist.types import PseudoLabeled, Role

NUM_IMAGES = 8
"""Of each model's R in an epoch: for a glance."""

SIDE, LINE = 128, 14
"""Of a picture and of a line below it, in pixels."""

LONGEST_NAME = 18
"""Letters of a class that have room in a line."""


@dataclass(frozen=True)
class Learned:
    """An image of R with its pseudo-label and what A and B called it."""

    sample_id: int
    label: int
    said: tuple[tuple[int, float], ...]
    """Class and confidence of A, of B."""


def show_learned(
    epoch: int,
    taught: Mapping[Role, PseudoLabeled],
    votes: PoolVotes,
    view: View,
    images: Images,
    ctx: RunContext,
) -> None:
    """Send pictures of what each model is taught to a tracker that takes images.

    No collective: the lead rank calls it, and chooses among the images whose votes it holds. view:
    of squares that this rank keeps anyway, so that nothing large is decoded.
    """
    if not takes_images(ctx.runtime.accelerator):
        return
    names, pool_ids = images.table.class_names, images.table.sample_ids(Split.U)
    for role, selected in taught.items():
        chosen = choose_learned(selected, votes, pool_ids, NUM_IMAGES)
        if not chosen:
            continue
        ids = torch.tensor([one.sample_id for one in chosen])
        try:
            (pixels,) = images.pixels.batches(view, [ids])
        except (UserError, OSError) as error:  # no reason to end a training
            ctx.reporter.warn(f"no pictures for the tracker: {error}")
            return
        drawn = [
            draw(square, caption(one, names))
            for square, one in zip(pixels.values.numpy(), chosen, strict=True)
        ]
        tag, accelerator = f"cotrain/learned_by_{role.value}", ctx.runtime.accelerator
        track_images(accelerator, tag, np.stack(drawn), epoch)


def choose_learned(
    selected: PseudoLabeled, votes: PoolVotes, pool_ids: Tensor, num: int
) -> list[Learned]:
    """At most `num` images of an R, evenly from its images in this rank's part of U.

    pool_ids: [N] int64, ascending.
    """
    places = torch.searchsorted(pool_ids, selected.sample_ids)
    found = []
    for part in votes.parts:
        is_here = (places >= part.start) & (places < part.start + len(part.a))
        found += [(part, int(row)) for row in is_here.nonzero().flatten()]
    step = max(1, -(-len(found) // num))
    chosen = []
    for part, row in found[::step]:
        at = int(places[row]) - part.start
        said = unpack_votes(torch.stack([part.a[at : at + 1], part.b[at : at + 1]]))
        labels, sure = said.labels[:, 0].tolist(), decode_confidence(said.uncertainty[:, 0])
        pairs = tuple(zip(labels, sure.tolist(), strict=True))
        chosen.append(Learned(int(selected.sample_ids[row]), int(selected.labels[row]), pairs))
    return chosen


def caption(one: Learned, names: Sequence[str]) -> tuple[str, ...]:
    """The lines below an image: what it is learned as, and what A and B called it."""
    said = (
        f"{who}: {_short(names[label])} {100.0 * sure:.0f} %"
        for who, (label, sure) in zip("AB", one.said, strict=True)
    )
    return (f"learned: {_short(names[one.label])}", *said)


def _short(name: str) -> str:
    # The font that Pillow brings has no further letters.
    plain = printable(name).encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 2]}.."


def draw(square: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """An image with lines of text below it, [h, w, 3]; square: [s, s, 3].

    Not every tracker has captions.
    """
    picture = Image.new("RGB", (SIDE, SIDE + LINE * len(lines) + 2), "white")
    picture.paste(Image.fromarray(square).resize((SIDE, SIDE)))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for number, line in enumerate(lines):
        pen.text((2, SIDE + LINE * number), line, fill="black", font=font)
    return np.asarray(picture)
