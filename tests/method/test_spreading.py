"""Spreading: neighbors against a full sort, the graph by hand, labels against other solvers."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from cotrain_dist.method import spreading
from cotrain_dist.method.herding import encode_points, scale_of
from cotrain_dist.method.spreading import (
    LARGEST_PRODUCT,
    Neighbors,
    build_graph,
    find_neighbors,
    spread_labels,
    to_distribution,
)


def random_points(num: int, seed: int = 0) -> Tensor:
    """Points around three centers; some are equal, one has no direction."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 12, generator=generator)
    rows = centers[torch.arange(num) % 3] + 0.7 * torch.randn(num, 12, generator=generator)
    points = encode_points([rows], [rows.double().mean(dim=0)])
    points[num // 2 :: 5] = points[0]
    points[1] = 0
    return points


def sorted_neighbors(points: Tensor, num: int) -> tuple[np.ndarray, np.ndarray]:
    """By a full sort of all products, as int64."""
    rows = points.numpy().astype(np.int64)
    products = rows @ rows.T
    shown = products.copy()
    np.fill_diagonal(shown, -(2**40))
    ids = np.argsort(-shown, axis=1, kind="stable")[:, :num]
    return ids, np.take_along_axis(products, ids, axis=1)


@pytest.mark.parametrize(("num_rows", "num_columns"), [(512, 8192), (7, 5), (1, 64), (64, 1)])
def test_neighbors_are_those_of_a_full_sort_in_blocks_of_every_size(
    num_rows: int, num_columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreading, "NUM_ROWS", num_rows)
    monkeypatch.setattr(spreading, "NUM_COLUMNS", num_columns)
    points = random_points(61)
    ids, products = sorted_neighbors(points, 45)
    assert (products[:, 1:] == products[:, :-1]).any(), "there are ties"
    assert (products < 0).any()
    found = find_neighbors(points, range(61), 45)
    assert found.ids.dtype == found.products.dtype == torch.int32
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.products, products)


def test_ranks_that_share_the_rows_find_the_same() -> None:
    points = random_points(40)
    whole = find_neighbors(points, range(40), 5)
    parts = [find_neighbors(points, rows, 5) for rows in (range(13), range(13, 13), range(13, 40))]
    assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)
    assert torch.equal(torch.cat([part.products for part in parts]), whole.products)


def test_neighbors_by_hand() -> None:
    """On a circle: at 0, 30, 60 and 180 degrees, and once more at 0."""
    angles = torch.tensor([0.0, 30.0, 60.0, 180.0, 0.0]).deg2rad().double()
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = (circle * scale_of(2)).round().to(torch.int16)
    found = find_neighbors(points, range(5), 2)
    # Of 0 and 4, which are equally near to 1 and 2, the lower comes first.
    assert found.ids.tolist() == [[4, 1], [0, 2], [1, 0], [2, 1], [0, 1]]
    assert found.products[0].tolist() == [scale_of(2) ** 2, scale_of(2) * int(points[1, 0])]


@pytest.mark.parametrize(("num_points", "width"), [(3, 2), (2, 1), (1, 0), (0, 0)])
def test_where_there_are_few_points_all_others_are_neighbors(num_points: int, width: int) -> None:
    found = find_neighbors(random_points(9)[:num_points], range(num_points), 15)
    assert found.ids.shape == found.products.shape == (num_points, width)
    assert all(i not in row for i, row in enumerate(found.ids.tolist()))
    assert build_graph(found, 3.0).shape == (num_points, num_points)


def path_of_three() -> Neighbors:
    """0 and 1 are neighbors of each other, 2 has 1; 3 has 0, with a product below 0."""
    half = LARGEST_PRODUCT // 2
    return Neighbors(
        torch.tensor([[1], [0], [1], [0]], dtype=torch.int32),
        torch.tensor([[half], [half], [half], [-half]], dtype=torch.int32),
    )


def test_the_graph_by_hand() -> None:
    """Weights 1/4, 1/4 and 1/8 for power 3 and both directions: degrees 1/4, 3/8 and 1/8."""
    graph = build_graph(path_of_three(), 3.0)
    assert graph.dtype == np.float64
    assert graph.nnz == 4, "no edge of weight 0 is kept"
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = (1 / 4) / np.sqrt(1 / 4 * 3 / 8)
    expected[1, 2] = expected[2, 1] = (1 / 8) / np.sqrt(3 / 8 * 1 / 8)
    np.testing.assert_allclose(graph.toarray(), expected, rtol=1e-15)


def test_a_high_power_loses_no_edge_to_rounding() -> None:
    near, far = LARGEST_PRODUCT, LARGEST_PRODUCT // 2**10
    found = Neighbors(
        torch.tensor([[1], [0], [3], [2]], dtype=torch.int32),
        torch.tensor([[near], [near], [far], [far]], dtype=torch.int32),
    )
    # 2^-10 to the power 60 is 2^-600, whose square is no float64 above 0.
    np.testing.assert_allclose(build_graph(found, 60.0).data, np.ones(4), rtol=1e-15)


def random_graph(num: int = 60) -> csr_array:
    return build_graph(find_neighbors(random_points(num), range(num), 4), 3.0)


def test_the_graph_is_symmetric_to_the_bit_and_bounded() -> None:
    graph = random_graph().toarray()
    assert (graph == graph.T).all()
    assert not graph.diagonal().any()
    assert np.abs(np.linalg.eigvalsh(graph)).max() == pytest.approx(1.0)


def random_seeds(num: int, num_classes: int) -> np.ndarray:
    seeds = np.zeros((num, num_classes))
    for row in range(num_classes):
        seeds[3 * row, row] = 1.0
    return seeds


def test_one_step_by_hand() -> None:
    """0.5 S F + 0.5 Y where image 1 alone is given: half of it stays, the rest goes to 0 and 2."""
    graph = build_graph(path_of_three(), 3.0)
    seeds = np.array([[0.0], [1.0], [0.0], [0.0]])
    spread = spread_labels(graph, seeds, alpha=0.5, num_steps=1)
    expected = [0.5 * np.sqrt(2 / 3), 0.5, 0.5 * np.sqrt(1 / 3), 0.0]
    np.testing.assert_allclose(spread[:, 0], expected, rtol=1e-14)
    assert (spread_labels(graph, seeds, alpha=0.5, num_steps=0) == seeds).all()
    assert seeds.tolist() == [[0.0], [1.0], [0.0], [0.0]], "not changed"


def test_many_steps_reach_the_solution_of_the_linear_equations() -> None:
    graph, seeds = random_graph(), random_seeds(60, 5)
    limit = 0.3 * np.linalg.solve(np.eye(60) - 0.7 * graph.toarray(), seeds)
    spread = spread_labels(graph, seeds, alpha=0.7, num_steps=120)
    np.testing.assert_allclose(spread, limit, atol=1e-12)


def test_it_is_the_spreading_of_scikit_learn() -> None:
    from sklearn.semi_supervised import LabelSpreading

    num, num_classes = 60, 5
    found = find_neighbors(random_points(num), range(num), 4)
    weights = np.zeros((num, num))
    cosines = (found.products.numpy() / LARGEST_PRODUCT).clip(min=0.0)
    np.put_along_axis(weights, found.ids.numpy(), cosines**3, axis=1)
    weights += weights.T
    seeds = random_seeds(num, num_classes)
    targets = np.where(seeds.any(axis=1), seeds.argmax(axis=1), -1)
    other = LabelSpreading(kernel=lambda *_: weights.copy(), alpha=0.7, max_iter=400, tol=1e-13)
    other.fit(np.zeros((num, 1)), targets)
    spread = spread_labels(build_graph(found, 3.0), seeds, alpha=0.7, num_steps=120)
    reached = spread.any(axis=1)
    assert reached.sum() > 40
    np.testing.assert_allclose(
        to_distribution(spread)[reached], other.label_distributions_[reached], atol=1e-9
    )


@pytest.mark.parametrize("cuts", [[1, 2, 3], [8], [7, 9], list(range(1, 17))])
def test_classes_have_the_same_bits_together_and_in_parts(cuts: list[int]) -> None:
    graph, seeds = random_graph(), np.random.default_rng(0).random((60, 17))
    together = spread_labels(graph, seeds, alpha=0.7, num_steps=15)
    parts = [
        spread_labels(graph, part, alpha=0.7, num_steps=15)
        for part in np.split(seeds, cuts, axis=1)
    ]
    assert np.concatenate(parts, axis=1).tobytes() == together.tobytes()
    columns = np.concatenate([part.T for part in parts]).T  # another order in memory
    assert to_distribution(columns).tobytes() == to_distribution(together).tobytes()


def test_a_row_that_nothing_reached_is_uniform() -> None:
    spread = np.array([[1.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 5e-310, 0.0]])
    expected = [[0.25, 0.75, 0.0, 0.0], [0.25] * 4, [0.0, 0.0, 1.0, 0.0]]
    assert to_distribution(spread).tolist() == expected
