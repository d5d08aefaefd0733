"""Images of no use: told of in words, kept as a list, and taken out of splits that were drawn."""

import json
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from cotrain_dist.data.sources.folders import LEAVES
from cotrain_dist.data.sources.listing import BadImage, Listing
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split

KEY = "data.on_bad_image"
LINKS_KEY = "data.follow_links"

NUM_SHOWN = 5
"""Bad images that an error names."""


def refuse_bad(bad: Sequence[BadImage], num_images: int) -> None:
    """Raise UserError that names some, if there are any. num_images: in all, with these."""
    if not bad:
        return
    shown = [f"{printable(one.path)} ({printable(one.reason)})" for one in bad[:NUM_SHOWN]]
    if len(bad) > NUM_SHOWN:
        shown.append(f"and {len(bad) - NUM_SHOWN} more")
    links = any(one.reason == LEAVES for one in bad)
    raise UserError(
        KEY,
        "error",
        f"{len(bad)} of {num_images} images cannot be used: {'; '.join(shown)}",
        f"repair or remove them, or give --{KEY} skip, which trains without them and lists them "
        "all in the run directory" + (f"; --{LINKS_KEY} true takes the links" if links else ""),
    )


def describe_bad(listing: Listing) -> list[str]:
    """What a person should know of images that are of no use; nothing where none is."""
    if not listing.bad:
        return []
    by_class = Counter(one.class_name for one in listing.bad if one.class_name is not None)
    labeled = ", ".join(f"{printable(name)} {number}" for name, number in sorted(by_class.items()))
    line = f"left out: {len(listing.bad)} image(s) that cannot be used (bad_images.jsonl says why)"
    return [f"{line}; with a label: {labeled}" if labeled else line]


def bad_lines(listing: Listing) -> str:
    """The content of bad_images.jsonl: a line of JSON for each, rows of the table first."""
    return "".join(json.dumps(one.to_json()) + "\n" for one in listing.bad)


def in_order(bad: Sequence[BadImage]) -> tuple[BadImage, ...]:
    """Rows by sample_id, then what is no row: the same list, whoever has found them."""
    last = max((one.sample_id for one in bad if one.sample_id is not None), default=0) + 1
    return tuple(sorted(bad, key=lambda one: last if one.sample_id is None else one.sample_id))


def printable(text: str) -> str:
    r"""Text with nothing in it that moves a cursor or that no encoding holds.

    >>> print(printable("cat\x1b[2J.jpg"))
    cat\x1b[2J.jpg
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def require_kept(listing: Listing, before: Tensor, after: Tensor) -> None:
    """Raise UserError where bad images were all that a split had of a class.

    before, after: [N] int64 splits, with and without them.
    """
    emptied = emptied_splits(listing.class_ids, before, after)
    if emptied:
        names = [*listing.class_names, "images without label"]
        raise UserError(
            KEY,
            ", ".join(f"{printable(names[i])} in {split.name}" for split, i in emptied),
            "none of these images can be used",
            "repair them or add others",
        )


def emptied_splits(class_ids: Tensor, before: Tensor, after: Tensor) -> list[tuple[Split, int]]:
    """Splits and class ids that had images before and have none after."""
    gone = []
    for split in (Split.T, Split.V, Split.L_A, Split.L_B, Split.U):
        kept = set(class_ids[after == split].tolist())
        if split is Split.U and kept:
            continue  # U needs images, but not of each class
        had = sorted(set(class_ids[before == split].tolist()))
        gone += [(split, class_id) for class_id in had if class_id not in kept]
    return gone
