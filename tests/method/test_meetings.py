"""Where the votes of both models meet: each image once, and the work spread over all ranks."""

from collections import Counter

import pytest

from cotrain_dist.method.exchange import meetings, range_of
from cotrain_dist.method.placement import Placement
from cotrain_dist.types import Role

PLACEMENTS = {
    "1": Placement((0,), (0,)),
    "2": Placement((0,), (1,)),
    "3": Placement((0, 1), (2,)),
    "4": Placement((0, 2), (1, 3)),
    "one for A": Placement((3,), (0, 1, 2)),
}


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("num_images", [0, 1, 2, 7, 8, 9, 100])
def test_each_image_is_in_one_meeting_of_ranks_that_hold_its_votes(
    name: str, num_images: int
) -> None:
    placement = PLACEMENTS[name]
    seen = []
    for meeting in meetings(num_images, 8, placement):
        assert meeting.start < meeting.stop
        seen += range(meeting.start, meeting.stop)
        for role, rank in (
            (meeting.role, meeting.receiver),
            (meeting.role.peer, meeting.sender),
        ):
            held = range_of(role, rank, num_images, 8, placement)
            assert {meeting.start, meeting.stop - 1} <= set(held)
    assert seen == list(range(num_images))


@pytest.mark.parametrize("name", PLACEMENTS)
def test_two_ranks_have_one_meeting_to_which_the_first_one_sends(name: str) -> None:
    pairs = [(m.sender, m.receiver) for m in meetings(1000, 8, PLACEMENTS[name])]
    assert len(pairs) == len(set(pairs)) > 0


def test_the_work_is_shared() -> None:
    sizes = dict.fromkeys(range(4), 0)
    for meeting in meetings(1000, 10, PLACEMENTS["4"]):
        sizes[meeting.receiver] += meeting.stop - meeting.start
    assert set(sizes.values()) == {250}


def test_by_hand() -> None:
    found = [
        (m.start, m.stop, m.sender, m.receiver, m.role) for m in meetings(20, 4, PLACEMENTS["3"])
    ]
    # A's ranks hold 0..12 and 12..20, B's holds all.
    assert found == [
        (0, 6, 2, 0, Role.A),
        (6, 12, 0, 2, Role.B),
        (12, 16, 2, 1, Role.A),
        (16, 20, 1, 2, Role.B),
    ]


@pytest.mark.parametrize("num_a", [500, 333, 100])
def test_of_1000_ranks_each_has_its_share_alone(num_a: int) -> None:
    """Ten times the images on ten times the ranks: no rank sends, receives or counts more."""
    load, batch_size = {}, 8
    for num_ranks, num_images in ((100, 20_000), (1000, 200_000)):
        here = num_a * num_ranks // 1000
        placement = Placement(tuple(range(here)), tuple(range(here, num_ranks)))
        sent, selected, met = Counter[int](), Counter[int](), Counter[int]()
        for meeting in meetings(num_images, batch_size, placement):
            size = meeting.stop - meeting.start
            sent[meeting.sender] += size
            selected[meeting.receiver] += size
            met.update((meeting.sender, meeting.receiver))
        assert sum(selected.values()) == num_images
        load[num_ranks] = [max(counts.values()) for counts in (sent, selected, met)]
    rounding = [batch_size, batch_size, 2]
    for few, many, least in zip(load[100], load[1000], rounding, strict=True):
        assert many <= few + least
