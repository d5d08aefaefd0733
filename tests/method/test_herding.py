"""Herding against the greedy list that looks at every image in every step."""

import pytest
import torch
from torch import Tensor

from cotrain_dist.method import herding
from cotrain_dist.method.herding import (
    Coverage,
    encode_points,
    herd,
    scale_of,
    squared_distances,
    squared_lengths,
)


def random_points(num: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(num, width, generator=generator) for width in (7, 5)]
    points = encode_points(features, [own.double().mean(dim=0) for own in features])
    points[num // 2] = points[0]  # equal ones, of which the first wins
    return points


def greedy(coverage: Coverage, points: Tensor, num: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(num):
        gains = coverage.gains(points)
        gains[chosen] = -1.0
        chosen.append(int((gains == gains.max()).nonzero()[0]))
        coverage.choose(points[chosen[-1] :][:1])
    return chosen


@pytest.mark.parametrize("kept_bytes", [1, 2**9, 2**20])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_lazy_list_is_the_greedy_one(
    weighted: bool, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(herding, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(herding, "FIRST_BOUNDS", 3)
    for seed, num in enumerate((5, 31, 90)):
        points = random_points(num, seed)
        weights = torch.rand(num, generator=torch.Generator().manual_seed(seed))
        options = {"weights": weights if weighted else None, "sigma": 0.8}
        lazy = herd(Coverage.of(points, **options), points, num // 2)
        assert lazy == greedy(Coverage.of(points, **options), points, num // 2)


def test_by_hand_the_middle_of_the_larger_heap_comes_first() -> None:
    angles = torch.tensor([0.1, 0.0, -0.1, 0.2, -0.2, 2.1, 2.0, 1.9, 4.0]).double()
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = (circle * scale_of(2)).round().to(torch.int16)
    assert herd(Coverage.of(points, sigma=0.5), points, 3) == [1, 6, 8]


def test_labeled_images_count_as_chosen_and_copies_are_not_listed() -> None:
    points = random_points(25, seed=3)[:12]
    coverage = Coverage.of(points, sigma=0.8)
    first = herd(Coverage.of(points, sigma=0.8), points, 1)[0]
    coverage.choose(points[first : first + 1])
    assert herd(coverage, points, 12)[-1] == first  # adds nothing any more
    listed = herd(
        Coverage.of(points, sigma=0.8), points, 12, is_copy=lambda row, chosen: row in (first, 4)
    )
    assert sorted({*listed, first, 4}) == list(range(12))
    assert first not in listed


def test_sums_are_exact_in_any_order() -> None:
    points = encode_points([torch.randn(300, 2048)], [torch.zeros(2048).double()])
    coverage = Coverage.of(points, weights=torch.rand(300), sigma=1.0)
    turned = Coverage(
        reference=coverage.reference.flip(0),
        lengths=coverage.lengths.flip(0),
        weights=coverage.weights.flip(0),
        sigma=1.0,
        covered=coverage.covered,
    )
    assert torch.equal(coverage.gains(points), turned.gains(points))
    products = points.float() @ points.float().T
    assert torch.equal(products.double(), points.double() @ points.double().T)


def test_distances_are_those_of_the_features() -> None:
    features = [torch.randn(20, 600), torch.randn(20, 900)]
    centers = [own.double().mean(dim=0) for own in features]
    points = encode_points(features, centers).float()
    unit = [own.double() - center for own, center in zip(features, centers, strict=True)]
    joint = torch.cat([own / own.norm(dim=1, keepdim=True) for own in unit], dim=1)
    joint /= joint.norm(dim=1, keepdim=True)
    expected = torch.cdist(joint, joint).square()
    torch.testing.assert_close(
        squared_distances(points, points, squared_lengths(points)).double(),
        expected,
        atol=2e-3,
        rtol=0.0,
    )
