"""Which of equal images is kept, by hand."""

import pytest

from cotrain_dist.method.copies import Copies, find_copies

NO = -1


@pytest.mark.parametrize(
    ("digests", "class_ids", "test", "of_others", "contradicting"),
    [
        ("", [], "", (), ()),
        ("abc", [0, 1, NO], "", (), ()),
        ("aba", [0, 1, 0], "", (2,), ()),
        ("aaa", [0, 0, 0], "", (1, 2), ()),
        # A labeled one before an unlabeled one, wherever they stand.
        ("aa", [NO, 1], "", (0,), ()),
        ("aa", [1, NO], "", (1,), ()),
        ("aa", [NO, NO], "", (1,), ()),
        ("aaaa", [NO, 1, 1, NO], "", (0, 2, 3), ()),
        # One of T before all others, the first of T before the others of T.
        ("aaa", [1, NO, 1], "2", (0, 1), ()),
        ("aaa", [1, 1, 1], "12", (0, 2), ()),
        # Two labels: none is used, an unlabeled copy and one of T neither.
        ("aa", [0, 1], "", (), ((0, 1),)),
        ("aa", [0, 1], "1", (), ((0, 1),)),
        ("aaab", [0, NO, 1, 0], "", (), ((0, 1, 2),)),
        ("babcacb", [0, 0, 1, NO, 1, 2, 1], "", (3,), ((0, 2, 6), (1, 4))),
    ],
)
def test_which_rows_are_left_out(
    digests: str,
    class_ids: list[int],
    test: str,
    of_others: tuple[int, ...],
    contradicting: tuple[tuple[int, ...], ...],
) -> None:
    is_test = [str(row) in test for row in range(len(digests))]
    found = find_copies(digests, class_ids, is_test)
    assert sorted(found.of_others) == list(of_others)
    assert sorted(found.contradicting) == list(contradicting)


def test_all_rows_ascend() -> None:
    copies = Copies((5, 1), ((7, 8), (0, 3)))
    assert copies.rows == [0, 1, 3, 5, 7, 8]
