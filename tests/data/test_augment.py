"""Augmentation: an image's bits are a function of its key, whatever is around it."""

import numpy as np
import pytest
import timm.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from cotrain_dist.data.augment import (
    Drawn,
    augment,
    draw_chosen,
    draw_strong,
    draw_weak,
    normalize,
)
from cotrain_dist.models import Preprocessing

HALF, NONE, ONE = (0.5,) * 3, (0.0,) * 3, (1.0,) * 3
DRAWS = {"weak": draw_weak, "strong": draw_strong}


def noise(side: int, num: int) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (num, side, side, 3), dtype=torch.uint8, generator=generator)


def one_by_one(case: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch of random size, view and image size, augmented as a whole and each image alone."""
    num, side = int(case.integers(1, 12)), int(case.integers(3, 40))
    size, draw = int(case.integers(2, 40)), DRAWS[str(case.choice(list(DRAWS)))]
    ids = torch.from_numpy(case.choice(1000, num, replace=False))
    order = case.permutation(num)
    pixels = noise(side, 1000 // side)[torch.from_numpy(ids.numpy() % (1000 // side))]
    aspects = 0.2 + 5.0 * (ids.numpy() % 97) / 97
    key = (int(case.integers(3)), "augment", "a", int(case.integers(3)))

    def run(rows: np.ndarray) -> Tensor:
        picked = torch.from_numpy(rows)
        drawn = draw(ids[picked], aspects[rows], 0.35, *key)
        return augment(pixels[picked], drawn, size, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))

    whole = torch.empty(num, 3, size, size)
    whole[torch.from_numpy(order)] = run(order)
    return whole, torch.cat([run(np.array([row])) for row in range(num)])


@pytest.mark.parametrize("num_cases", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_bits_depend_on_no_batch_place_neighbor_or_size(num_cases: int) -> None:
    case, differing = np.random.default_rng(0), set()
    for number in range(num_cases):
        whole, alone = one_by_one(case)
        assert torch.equal(whole, alone), number
        differing.add(float(whole[0, 0, 0, 0]))
    assert len(differing) > num_cases / 2, "the cases are not all alike"


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_the_key_and_the_image_decide(draw: object) -> None:
    def run(epoch: int, sample_id: int) -> Tensor:
        drawn = draw(torch.tensor([sample_id]), np.ones(1), 0.35, 0, "a", epoch)  # type: ignore[operator]
        return augment(noise(24, 1), drawn, 16, HALF, HALF)

    state = torch.get_rng_state()
    first = run(1, 5)
    torch.rand(3)
    assert torch.equal(first, run(1, 5))
    assert not torch.equal(first, run(2, 5))
    assert not torch.equal(first, run(1, 6))
    torch.set_rng_state(state)
    run(1, 5)
    assert torch.equal(torch.get_rng_state(), state), "no global generator is drawn from"


def test_crops_keep_the_area_and_shape_asked_for_and_stay_inside() -> None:
    ids, aspects = torch.arange(20_000), np.tile([0.25, 0.7, 1.0, 1.5, 6.0], 4000)
    affine = draw_weak(ids, aspects, 0.4, 0).affine.double().numpy()
    width, height = np.abs(affine[:, 0]), affine[:, 4]
    assert (affine[:, [1, 3]] == 0.0).all()
    assert (np.abs(affine[:, 2]) + width <= 1.0 + 1e-6).all()
    assert (np.abs(affine[:, 5]) + height <= 1.0 + 1e-6).all()
    shape = width / height * aspects
    assert shape.min() >= 0.75 - 1e-6
    assert shape.max() <= 4 / 3 + 1e-6
    usual = np.isin(aspects, [0.7, 1.0, 1.5])
    area = (width * height)[usual]
    assert area.min() >= 0.4 - 1e-6
    # As in torchvision, large areas are refused more often where a crop of their shape sticks out.
    square = (width * height)[aspects == 1.0]
    assert 0.40 < np.quantile(square, 0.01) < 0.42
    assert 0.60 < square.mean() < 0.70
    assert 0.49 < (affine[:, 0] < 0).mean() < 0.51, "half of them are flipped"
    free = usual & (width < 0.99)
    left = (1.0 + affine[:, 2] - width)[free] / (2.0 - 2.0 * width)[free]
    assert np.histogram(left, bins=4, range=(0, 1))[0].min() > 0.23 * free.sum()
    strip = aspects == 6.0  # no crop of the least area fits: the middle of the shape that does
    assert np.allclose(width[strip], (4 / 3) / 6)
    assert np.allclose(affine[strip][:, [2, 5]], 0.0)


def test_a_crop_is_what_lies_there() -> None:
    ramp = torch.arange(8.0)[None, None, :, None].expand(1, 8, 8, 3) * 16 + 8
    pixels = ramp.to(torch.uint8).contiguous()

    def row(*affine: float) -> list[float]:
        drawn = Drawn(torch.tensor([affine]))
        return (augment(pixels, drawn, 4, NONE, ONE)[0, 0, 0] * 255).tolist()

    assert row(0.5, 0, 0, 0, 0.5, 0) == pytest.approx([40, 56, 72, 88])  # the inner four pixels
    assert row(-0.5, 0, 0, 0, 0.5, 0) == pytest.approx([88, 72, 56, 40])
    assert row(0.5, 0, 0.5, 0, 0.5, 0) == pytest.approx([72, 88, 104, 120])
    assert row(1, 0, 0, 0, 1, 0) == pytest.approx([16, 48, 80, 112])
    assert row(0.5, 0, 2, 0, 0.5, 0) == pytest.approx([120] * 4), "beyond the edge: its last pixel"


def test_affine_maps_are_those_of_the_library() -> None:
    pixels, affine = noise(20, 3), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    own = augment(pixels, Drawn(affine), 12, NONE, ONE)
    grid = F.affine_grid(affine.view(3, 2, 3), [3, 3, 12, 12], align_corners=False)
    source = pixels.permute(0, 3, 1, 2) / 255.0
    other = F.grid_sample(source, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(own, other, atol=2e-5, rtol=0)


def test_colors_and_erased_boxes() -> None:
    whole = torch.tensor([[1.0, 0, 0, 0, 1, 0]])
    color = torch.tensor([[[0.5, 0, 0, 0.1], [0, 1, 0, 0], [0.25, 0.25, 0.25, 0.9]]])
    box = torch.tensor([[-1.0, -1.0, 0.0, 0.5]])
    pixels = torch.tensor([102, 51, 255], dtype=torch.uint8).expand(1, 4, 4, 3).contiguous()
    found = augment(pixels, Drawn(whole, color, box), 4, NONE, ONE)[0]
    assert (found[:, :3, :2] == 0.5).all()
    for outside in (found[:, 3], found[:, :, 3]):
        expected = torch.tensor([0.5 * 0.4 + 0.1, 0.2, 1.0])[:, None].expand(3, 4)
        torch.testing.assert_close(outside, expected)


def test_the_strong_view_changes_places_colors_and_parts() -> None:
    ids, aspects = torch.arange(4000), np.ones(4000)
    drawn, weak = (draw(ids, aspects, 0.35, 0) for draw in (draw_strong, draw_weak))
    assert drawn.color is not None
    assert drawn.erased is not None
    is_moved = (drawn.affine != weak.affine).any(dim=1).double().mean()
    plain = torch.eye(3, 4)
    is_recolored = (drawn.color - plain).abs().amax(dim=(1, 2)) > 1e-6
    # Each of two changes is one of five that move, three that recolor, and one that does nothing.
    assert float(is_moved) == pytest.approx(1 - (4 / 9) ** 2, abs=0.03)
    assert float(is_recolored.double().mean()) == pytest.approx(1 - (6 / 9) ** 2, abs=0.03)
    sides = (drawn.erased[:, 2] - drawn.erased[:, 0]) / 2
    assert 0.0 <= float(sides.min()) <= 0.01
    assert 0.49 <= float(sides.max()) <= 0.5
    grey = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8).expand(4000, -1, -1, -1)
    pictures = augment(grey.contiguous(), drawn, 8, NONE, ONE)
    assert float(pictures.min()) >= 0.0
    assert float(pictures.max()) <= 1.0


def test_each_image_gets_the_view_that_is_chosen_for_it() -> None:
    """The bits of an image depend on its own choice alone, not on those of its neighbors."""
    ids, num = torch.arange(40), 40
    aspects, pixels = 0.5 + np.arange(num) / num, noise(24, num)
    is_strong = torch.arange(num) % 3 == 0

    def run(chosen: Tensor, rows: Tensor) -> Tensor:
        drawn = draw_chosen(chosen[rows], ids[rows], aspects[rows.numpy()], 0.35, 0, "a", 1)
        return augment(pixels[rows], drawn, 16, HALF, HALF)

    mixed = run(is_strong, ids)
    assert torch.equal(mixed, torch.cat([run(is_strong, ids[row : row + 1]) for row in range(num)]))
    others = run(torch.ones(num, dtype=torch.bool), ids), run(torch.zeros(num) > 0, ids)
    assert torch.equal(mixed, torch.where(is_strong[:, None, None, None], *others))
    for draw, view in zip((draw_strong, draw_weak), others, strict=True):
        plain = augment(pixels, draw(ids, aspects, 0.35, 0, "a", 1), 16, HALF, HALF)
        torch.testing.assert_close(view, plain, atol=1e-6, rtol=0)
    assert not torch.equal(others[0][1], others[1][1])


@pytest.mark.parametrize("fraction", [0.875, 1.0, 0.9])
@pytest.mark.parametrize("size", [(128, 128), (150, 131), (40, 300), (9, 9)])
def test_without_augmentation_images_have_the_bits_of_timm(
    size: tuple[int, int], fraction: float
) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
    own = Preprocessing(64, fraction, mean, std)
    pixels = torch.from_numpy(np.asarray(own.view().prepare(image)).copy())[None]
    theirs = timm.data.create_transform(**own.as_timm(), is_training=False)(image)
    assert torch.equal(normalize(pixels, mean, std)[0], theirs)


@pytest.mark.parametrize(("width", "height"), [(1000, 1000), (1000, 500), (400, 1000)])
def test_crops_are_distributed_as_those_of_torchvision(width: int, height: int) -> None:
    num = 4000
    image = torch.empty(3, height, width, dtype=torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = torch.tensor(
            [RandomResizedCrop.get_params(image, [0.35, 1.0], [3 / 4, 4 / 3]) for _ in range(num)]
        ).double()
    theirs = boxes[:, [3, 2]] / torch.tensor([width, height])
    affine = draw_weak(torch.arange(num), np.full(num, width / height), 0.35, 0).affine.double()
    own = affine[:, [0, 4]].abs()
    for side in range(2):
        for quantile in (0.1, 0.5, 0.9):
            expected = float(theirs[:, side].quantile(quantile))
            assert float(own[:, side].quantile(quantile)) == pytest.approx(expected, abs=0.02)
    centers = (affine[:, [2, 5]] + 1) / 2
    their_centers = (boxes[:, [1, 0]] + boxes[:, [3, 2]] / 2) / torch.tensor([width, height])
    assert torch.allclose(centers.std(dim=0), their_centers.std(dim=0), atol=0.01)
