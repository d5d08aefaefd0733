"""What a source holds, without its pixels."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cotrain_dist.errors import UserError

UNKNOWN = -1
"""Class id of an image without a label."""

UNLABELED, TEST = "unlabeled", "test"
"""Sources of the further images of data.unlabeled and data.test."""


ABSENT = -1
"""Size of an image whose bytes could not be read."""


@dataclass(frozen=True)
class BadImage:
    """What cannot be used as an image, and why."""

    source: str
    path: str
    class_name: str | None
    """None without a label."""
    reason: str
    sample_id: int | None = None
    """None where it is no row of the listing: what lies in a folder and is no file."""

    def to_json(self) -> dict[str, Any]:
        """The keys of a line of bad_images.jsonl."""
        values = asdict(self)
        return {"class" if key == "class_name" else key: own for key, own in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BadImage":
        """Read back what `to_json` gave."""
        return cls(**{"class_name" if key == "class" else key: own for key, own in values.items()})


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
    """Bytes; ABSENT where they could not be read."""
    digests: Sequence[str]
    """SHA-256 of the content."""
    bad: tuple[BadImage, ...] = ()
    """What was found to be of no use, so far; the rows among it are in no split."""

    @property
    def bad_ids(self) -> list[int]:
        """The sample_ids of rows that are of no use, ascending."""
        return sorted(bad.sample_id for bad in self.bad if bad.sample_id is not None)

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
    bad: Sequence[BadImage] = (),
) -> Listing:
    """A listing from one label and one (size, digest) an image; None is no label.

    class_names: in the order of their ids; by default the labels that occur, sorted. bad: what is
    no row.
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
        bad=tuple(bad),
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
        bad=tuple(bad for part in parts for bad in part.bad),
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


def absent_content(source: str, path: str) -> tuple[int, str]:
    """What stands for size and digest where an image's bytes cannot be read; equal to no other."""
    return ABSENT, content_of(f"unreadable {source} {path}".encode())[1]


def content_of_pixels(image: Image.Image) -> tuple[int, str]:
    """Size and digest of a decoded image, for sources that hold no file an image."""
    # The same bytes may be two images of another mode or shape.
    return content_of(repr((image.mode, image.size)).encode() + image.tobytes())
