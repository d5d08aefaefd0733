"""Copies of images are in no split: they are taken out, and it is said which ones."""

from collections.abc import Sequence

from torch import Tensor

from cotrain_dist.data.bad_images import emptied_splits
from cotrain_dist.data.sources.listing import TEST, UNLABELED, Listing
from cotrain_dist.errors import UserError
from cotrain_dist.method.copies import Copies, find_copies
from cotrain_dist.method.splits import Split

NUM_SHOWN = 5
"""Pairs of equal images with different labels that a warning names."""


def leave_out_copies(listing: Listing, splits: Tensor) -> Tensor:
    """The splits, with `Split.OUT` for copies. splits: [N] int64 -> [N] int64.

    What is in no split already is a copy of nothing.

    Equal bytes in T and in L would measure memory, and two labels of one image cannot both be
    right. Raises UserError where this leaves a class without images in T, V, L_A or L_B, or U
    empty.
    """
    copies = _copies_of(listing, (splits != Split.OUT).nonzero().flatten().tolist())
    if not copies.rows:
        return splits
    left = splits.clone()
    left[copies.rows] = Split.OUT
    emptied = emptied_splits(listing.class_ids, splits, left)
    if emptied:
        split, class_id = emptied[0]
        was_there = (splits == split) & (listing.class_ids == class_id)
        row = int(was_there.nonzero()[0])
        equal = [i for i, digest in enumerate(listing.digests) if digest == listing.digests[row]]
        pair = [row, next(i for i in equal if i != row)]
        names = [*listing.class_names, "images without label"]
        raise UserError(
            "data.root",
            ", ".join(f"{names[class_id]} in {split.name}" for split, class_id in emptied),
            f"all are left out, as copies of other images, such as {_shown(pair, listing)}",
            "remove the copies, correct labels that contradict each other, or add images",
        )
    return left


def _copies_of(listing: Listing, rows: Sequence[int]) -> Copies:
    """The copies among some rows of a listing, as its sample_ids."""
    is_test = [source == TEST for source in listing.sources]
    class_ids = listing.class_ids.tolist()
    if len(rows) == len(is_test):
        return find_copies(listing.digests, class_ids, is_test)
    found = find_copies(
        [listing.digests[row] for row in rows],
        [class_ids[row] for row in rows],
        [is_test[row] for row in rows],
    )
    return Copies(
        tuple(rows[index] for index in found.of_others),
        tuple(tuple(rows[index] for index in equal) for equal in found.contradicting),
    )


def describe_left_out(listing: Listing, splits: Tensor) -> list[str]:
    """What a person should know of the images that are left out; nothing where none is.

    How many; and some of those whose copies have another label, one of which must be wrong.
    """
    bad = set(listing.bad_ids)  # told of by `describe_bad`
    rows = [row for row in (splits == Split.OUT).nonzero().flatten().tolist() if row not in bad]
    if not rows:
        return []
    # Of an image with two labels all copies are left out, so they are found among these rows.
    contradicting = _copies_of(listing, rows).contradicting
    num_contradicting = sum(map(len, contradicting))
    num_copies = len(rows) - num_contradicting
    counts = []
    if num_copies:
        counts.append(f"{num_copies} {'copies' if num_copies > 1 else 'copy'} of other images")
    if contradicting:
        counts.append(f"{num_contradicting} images whose copies have another label")
    lines = [f"left out: {', '.join(counts)}"]
    if contradicting:
        pairs = [_shown(_pair(rows, listing), listing) for rows in contradicting[:NUM_SHOWN]]
        if len(contradicting) > NUM_SHOWN:
            pairs.append(f"and {len(contradicting) - NUM_SHOWN} more")
        lines.append(f"{len(contradicting)} image(s) with different labels: {'; '.join(pairs)}")
    return lines


def _pair(rows: Sequence[int], listing: Listing) -> list[int]:
    """Two equal images with different labels."""
    class_ids = listing.class_ids[list(rows)].tolist()
    labeled = [row for row, class_id in zip(rows, class_ids, strict=True) if class_id >= 0]
    first = labeled[0]
    other = next(row for row in labeled if listing.class_ids[row] != listing.class_ids[first])
    return [first, other]


def _shown(rows: Sequence[int], listing: Listing) -> str:
    return " = ".join(_name_of(row, listing) for row in rows)


def _name_of(row: int, listing: Listing) -> str:
    class_id, source = int(listing.class_ids[row]), listing.sources[row]
    label = listing.class_names[class_id] if class_id >= 0 else "no label"
    place = f"data.{source}: " if source in (UNLABELED, TEST) else ""
    return f"{place}{listing.paths[row]} ({label})"
