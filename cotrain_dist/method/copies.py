"""Images of equal bytes: one of them is used, and none where people gave them different labels."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Copies:
    """Rows of images that are left out."""

    of_others: tuple[int, ...]
    """Copies of an image that is kept."""
    contradicting: tuple[tuple[int, ...], ...]
    """Equal images with different labels: the rows of each such image."""

    @property
    def rows(self) -> list[int]:
        """All of them."""
        return sorted([*self.of_others, *(row for rows in self.contradicting for row in rows)])


def find_copies(
    digests: Sequence[str], class_ids: Sequence[int], is_test: Sequence[bool]
) -> Copies:
    """Which images to leave out, so that no image is there twice. One value an image.

    class_ids: negative without a label. is_test: whether a person has put it into T. Of equal
    images the first one of T is kept, else the first labeled one, else the first.
    """
    first: dict[str, int] = {}
    equal: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        before = first.setdefault(digest, row)
        if before != row:
            equal.setdefault(digest, [before]).append(row)
    of_others: list[int] = []
    contradicting = []
    for rows in equal.values():
        if len({class_ids[row] for row in rows if class_ids[row] >= 0}) > 1:
            contradicting.append(tuple(rows))
            continue
        kept = min(rows, key=lambda row: (not is_test[row], class_ids[row] < 0, row))
        of_others += [row for row in rows if row != kept]
    return Copies(tuple(of_others), tuple(contradicting))
