"""What a source holds, without its pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from cotrain_dist.errors import UserError

UNKNOWN = -1
"""Class id of an image without a label."""

UNLABELED, TEST = "unlabeled", "test"
"""Sources of the further images of data.unlabeled and data.test."""


@dataclass(frozen=True)
class Listing:
    """All images of a run; a row is a sample_id.

    Columns are tuples while images are listed, and then those of a file that all ranks share
    (`store.mapped`).
    """

    sources: Sequence[str]
    """Where each image comes from: the configured source, or `unlabeled` or `test`."""
    paths: Sequence[str]
    """Relative to the source's folder, `/` between the parts; or the row in the source."""
    class_ids: Tensor
    """[N] int64, UNKNOWN for images without a label."""
    class_names: tuple[str, ...]
    sizes: Sequence[int]
    """Bytes."""
    digests: Sequence[str]
    """SHA-256 of the content."""

    @property
    def source(self) -> str:
        """The configured source; its images come first."""
        return self.sources[0]


def listing_of(
    source: str,
    paths: Sequence[str],
    labels: Sequence[str | None],
    contents: Sequence[tuple[int, str]],
    class_names: Sequence[str] | None = None,
) -> Listing:
    """A listing from one label and one (size, digest) an image; None is no label.

    class_names: in the order of their ids; by default the labels that occur, sorted.
    """
    occurring = sorted({label for label in labels if label is not None})
    names = tuple(occurring if class_names is None else class_names)
    id_of: dict[str | None, int] = {name: class_id for class_id, name in enumerate(names)}
    id_of[None] = UNKNOWN
    return Listing(
        sources=(source,) * len(paths),
        paths=tuple(paths),
        class_ids=torch.tensor([id_of[label] for label in labels], dtype=torch.int64),
        class_names=names,
        sizes=tuple(size for size, _ in contents),
        digests=tuple(digest for _, digest in contents),
    )


def joined(first: Listing, others: Sequence[Listing]) -> Listing:
    """One listing of several; the first's classes count."""
    parts = [first, *others]
    return Listing(
        sources=tuple(source for part in parts for source in part.sources),
        paths=tuple(path for part in parts for path in part.paths),
        class_ids=torch.cat([part.class_ids for part in parts]),
        # Ids of the further parts are these already: unlabeled images have none, T has been mapped.
        class_names=first.class_names,
        sizes=tuple(size for part in parts for size in part.sizes),
        digests=tuple(digest for part in parts for digest in part.digests),
    )


def check_number(found: int, name: str, listing: Listing) -> None:
    """Raise UserError where a source no longer holds as many images as were listed."""
    listed = listing.sources.count(listing.source)
    if found != listed:
        raise changed(name, f"holds {found} images, not {listed} as in splits.parquet")


def changed(name: str, rule: str) -> UserError:
    """The error for a data set that is not the one that the splits were drawn from."""
    return UserError(
        "data.name", name, rule, "name the data set and its split that the run was made from"
    )


def content_of(content: bytes) -> tuple[int, str]:
    """Size and digest of an image's bytes."""
    return len(content), hashlib.sha256(content).hexdigest()


def content_of_pixels(image: Image.Image) -> tuple[int, str]:
    """Size and digest of a decoded image, for sources that hold no file an image."""
    # The same bytes may be two images of another mode or shape.
    return content_of(repr((image.mode, image.size)).encode() + image.tobytes())
