"""Groups of images that are alike: by hand, against every pair, in any order and any blocks."""

import pytest
import torch
from torch import Tensor

from cotrain_dist.method import groups
from cotrain_dist.method.groups import group_near
from cotrain_dist.method.herding import scale_of, squared_distances, squared_lengths


def on_a_circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    points = torch.stack([angles.cos(), angles.sin()], dim=1) * scale_of(2)
    return points.round().to(torch.int16)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        ([], []),
        ([5], [0]),
        ([5, 5], [0, 1]),  # the median itself is 0: nothing is closer than usual
        ([0, 40, 80, 120, 160], [0, 1, 2, 3, 4]),
        ([0, 40, 80, 120, 121], [0, 1, 2, 3, 3]),
        # A chain: its ends are farther apart than the cut.
        ([120, 0, 40, 80, 124, 128, 160, 200, 240, 280], [0, 1, 2, 3, 0, 0, 6, 7, 8, 9]),
        ([0, 6, 40, 80, 120], [0, 1, 2, 3, 4]),  # 6 is more than 0.13 of 40
    ],
)
def test_by_hand(degrees: list[float], expected: list[int]) -> None:
    assert group_near(on_a_circle(*degrees)).tolist() == expected


def by_every_pair(points: Tensor, fraction: float) -> list[int]:
    rows = points.float()
    squares = squared_distances(rows, rows, squared_lengths(rows)).fill_diagonal_(torch.inf)
    cut = fraction * squares.min(dim=1).values.sqrt().double().quantile(0.5)
    found = list(range(len(points)))
    for _ in found:  # as often as the longest chain could need
        for i, j in (squares.sqrt() < cut).nonzero().tolist():
            found[i] = found[j] = min(found[i], found[j])
    return found


@pytest.mark.parametrize("fraction", [0.13, 0.9, 1.3])
def test_as_every_pair_says_in_any_order_and_any_blocks(
    fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(90, 6, generator=generator)
    rows[70:] = rows[:20] + 0.01 * torch.randn(20, 6, generator=generator)
    points = (torch.nn.functional.normalize(rows) * scale_of(6)).round().to(torch.int16)
    expected = by_every_pair(points, fraction)
    assert len(set(expected)) < 90
    monkeypatch.setattr(groups, "BLOCK_SIZE", 7)
    monkeypatch.setattr(groups, "OTHERS_SIZE", 16)
    assert group_near(points, fraction).tolist() == expected
    order = torch.randperm(90, generator=generator)
    again = group_near(points[order], fraction)
    found = torch.tensor(expected)[order]
    assert torch.equal(again[:, None] == again, found[:, None] == found)
