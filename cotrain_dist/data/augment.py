"""Augmentation: keyed parameters for each image, applied to a whole batch on its device.

Two steps. `draw_weak`, `draw_strong` and `draw_chosen` turn a key and sample_ids into parameters;
each image's are a function of the key and of its own sample_id. `augment` applies them elementwise:
an image becomes the same bits whatever its batch, its place there, its neighbors and the number of
ranks.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cotrain_dist.keys import keyed_uniforms

Floats = NDArray[np.float64]

NUM_ATTEMPTS = 10
"""Crops tried for an image before the center is taken, as torchvision's RandomResizedCrop does."""

LARGEST_RATIO = 4 / 3
"""Of a crop's width and height, either way round."""

GREY = 0.5
"""What erasing leaves, and what less contrast moves towards; pixels are 0..1 there."""

LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue add to brightness (ITU-R BT.601), as in Pillow's grey."""

LARGEST_ROTATION, LARGEST_SHEAR, LARGEST_SHIFT = np.pi / 6, 0.3, 0.3
LEAST_ENHANCEMENT, MOST_ENHANCEMENT = 0.05, 0.95
LARGEST_ERASED_SIDE = 0.5
NUM_STRONG_CHANGES = 2


@dataclass(frozen=True)
class Drawn:
    """The parameters of a batch of n images, float32 on the CPU.

    affine: [n, 6], from output to input: x' = a x + b y + c, y' = d x + e y + f, where both sides
    run over -1..1 from edge to edge. color: [n, 3, 4], on RGB of 0..1, the last column added; None
    changes none. erased: [n, 4], left, top, right and bottom (-1..1) of a box; None erases none.
    """

    affine: Tensor
    color: Tensor | None = None
    erased: Tensor | None = None


def draw_weak(sample_ids: Tensor, aspects: Floats, least_area: float, *key: int | str) -> Drawn:
    """A random resized crop and a horizontal flip.

    sample_ids: [n] int64. aspects: [n], width over height before it was squeezed into a square.
    least_area: the least fraction (0..1) of an image's area that is kept.
    """
    numbers = keyed_uniforms(sample_ids.numpy(), 2 * NUM_ATTEMPTS + 3, *key)
    affine = _crop(numbers[:, :-1], aspects, least_area)
    affine[:, 0] *= np.where(numbers[:, -1] < 0.5, -1.0, 1.0)
    return Drawn(torch.from_numpy(affine.astype(np.float32)))


def _crop(numbers: Floats, aspects: Floats, least_area: float) -> Floats:
    """Affine maps [n, 6] onto a part of each image: of what area, shape and place, by `numbers`."""
    areas = least_area + (1.0 - least_area) * numbers[:, :NUM_ATTEMPTS]
    shapes = LARGEST_RATIO ** (2.0 * numbers[:, NUM_ATTEMPTS : 2 * NUM_ATTEMPTS] - 1.0)
    # Fractions of the image's width and height.
    widths = np.sqrt(areas * shapes / aspects[:, None])
    heights = np.sqrt(areas / shapes * aspects[:, None])
    fits = np.asarray(np.maximum(widths, heights) <= 1.0)
    rows, first = np.arange(len(aspects)), fits.argmax(axis=1)
    # Where none fits, as in a long strip: all of it that has a shape within the limits.
    is_found = np.asarray(fits.any(axis=1))
    width = np.where(is_found, widths[rows, first], np.minimum(LARGEST_RATIO / aspects, 1.0))
    height = np.where(is_found, heights[rows, first], np.minimum(LARGEST_RATIO * aspects, 1.0))
    place = np.where(is_found[:, None], numbers[:, -2:], 0.5)
    # The middle of the crop, -1..1: at place 0 the crop touches the left or upper edge.
    x, y = (1.0 - width) * (2.0 * place[:, 0] - 1.0), (1.0 - height) * (2.0 * place[:, 1] - 1.0)
    zero = np.zeros_like(width)
    return np.stack([width, zero, x, zero, height, y], axis=1)


def draw_strong(sample_ids: Tensor, aspects: Floats, least_area: float, *key: int | str) -> Drawn:
    """The weak crop and flip, two of nine changes of random size, and an erased box.

    After RandAugment (arXiv 1909.13719) with the sizes of FixMatch (arXiv 2001.07685), of whose
    changes these are all that an affine map or a color matrix can make.
    """
    weak = draw_weak(sample_ids, aspects, least_area, *key)
    affine = weak.affine.numpy().astype(np.float64)
    numbers = keyed_uniforms(sample_ids.numpy(), 2 * NUM_STRONG_CHANGES + 3, "strong", *key)
    color = np.zeros((len(affine), 3, 4))
    color[:, [0, 1, 2], [0, 1, 2]] = 1.0
    for change in range(NUM_STRONG_CHANGES):
        kinds = np.floor(numbers[:, 2 * change] * 9).astype(np.int64)
        moved, enhanced = _changes(kinds, 2.0 * numbers[:, 2 * change + 1] - 1.0)
        affine, color = _after(affine, moved), _enhanced(color, enhanced)
    side = LARGEST_ERASED_SIDE * numbers[:, -3]
    middle = 2.0 * numbers[:, -2:] - 1.0
    erased = np.concatenate([middle - side[:, None], middle + side[:, None]], axis=1)
    return Drawn(*(torch.from_numpy(x.astype(np.float32)) for x in (affine, color, erased)))


def draw_chosen(
    is_strong: Tensor, sample_ids: Tensor, aspects: Floats, least_area: float, *key: int | str
) -> Drawn:
    """The strong parameters for some images, the weak ones for the others. is_strong: [n] bool.

    Both are drawn for all: what an image gets depends on no choice for its neighbors.
    """
    weak = draw_weak(sample_ids, aspects, least_area, *key)
    strong = draw_strong(sample_ids, aspects, least_area, *key)
    assert strong.color is not None
    assert strong.erased is not None
    is_strong = is_strong[:, None]
    return Drawn(
        torch.where(is_strong, strong.affine, weak.affine),
        # A matrix that changes no color and a box without a pixel, and not None, which is for all
        # images of a batch: pixels that miss 0 or 1 by a last bit are then clamped in each of them.
        torch.where(is_strong[:, :, None], strong.color, torch.eye(3, 4)),
        torch.where(is_strong, strong.erased, torch.zeros(4)),
    )


def _changes(kinds: NDArray[np.int64], sizes: Floats) -> tuple[Floats, Floats]:
    """Affine maps [n, 6] and color matrices [n, 3, 4] of changes by kind 0..8, sizes -1..1."""
    zero, one = np.zeros_like(sizes), np.ones_like(sizes)
    angle = np.where(kinds == 1, sizes * LARGEST_ROTATION, 0.0)
    shear_x, shear_y = (np.where(kinds == kind, sizes * LARGEST_SHEAR, 0.0) for kind in (2, 3))
    shift_x, shift_y = (np.where(kinds == kind, 2 * sizes * LARGEST_SHIFT, 0.0) for kind in (4, 5))
    cos, sin = np.cos(angle), np.sin(angle)
    moved = np.stack([cos, shear_x - sin, shift_x, sin + shear_y, cos, shift_y], axis=1)
    # Kind 0 changes nothing: RandAugment's identity.
    factor = LEAST_ENHANCEMENT + (MOST_ENHANCEMENT - LEAST_ENHANCEMENT) * (sizes + 1.0) / 2.0
    brightness, contrast, saturation = (np.where(kinds == kind, factor, one) for kind in (6, 7, 8))
    color = np.zeros((len(sizes), 3, 4))
    for channel in range(3):
        for other, luma in enumerate(LUMA):
            own = saturation if other == channel else zero
            color[:, channel, other] = (own + (1.0 - saturation) * luma) * brightness * contrast
        color[:, channel, 3] = (1.0 - contrast) * GREY
    return moved, color


def _after(outer: Floats, inner: Floats) -> Floats:
    """Affine maps that first apply `inner`, then `outer`; [n, 6] each."""
    a, b, c, d, e, f = outer.T
    p, q, r, s, t, u = inner.T
    columns = (a * p + b * s, a * q + b * t, a * r + b * u + c)
    return np.stack(
        [*columns, d * p + e * s, d * q + e * t, d * r + e * u + f],
        axis=1,
    )


def _enhanced(color: Floats, by: Floats) -> Floats:
    """Color matrices that first apply `color`, then `by`; [n, 3, 4] each."""
    # Sums of products column by column: einsum and matmul may round otherwise in another batch.
    joint = np.zeros_like(color)
    for channel in range(3):
        for other in range(3):
            joint[:, channel] += by[:, channel, other, None] * color[:, other]
        joint[:, channel, 3] += by[:, channel, 3]
    return joint


def augment(
    pixels: Tensor, drawn: Drawn, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Normalized images [n, 3, size, size] float32. pixels: [n, s, s, 3] uint8, on any device."""
    device = pixels.device
    source = pixels.permute(0, 3, 1, 2).float()
    places = _places(drawn.affine.to(device, non_blocking=True), size)
    images = F.grid_sample(source, places, padding_mode="border", align_corners=False).div_(255.0)
    if drawn.color is not None:
        images = _recolored(images, drawn.color.to(device, non_blocking=True))
    if drawn.erased is not None:
        inside = _inside(drawn.erased.to(device, non_blocking=True), size)
        images = torch.where(inside, GREY, images)
    return images.sub_(_column(mean, device)).div_(_column(std, device))


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images as they are, with the bits of timm's own transform: [n, s, s, 3] uint8 -> [n, 3, s, s]
    float32.
    """
    # By rows of pixels, whose channels follow each other in memory: along the channels, three
    # numbers at a time, it took half as long again on a CPU.
    width = pixels.shape[2]
    rows = pixels.flatten(2).float().div_(255.0)
    rows.sub_(_row(mean, width, pixels.device)).div_(_row(std, width, pixels.device))
    return rows.view(pixels.shape).permute(0, 3, 1, 2)


# Kept: to send a few numbers to a GPU for each batch would wait for its work.
@cache
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


@cache
def _row(values: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).repeat(width)


def _centers(size: int, device: torch.device) -> Tensor:
    """The middles of `size` pixels on -1..1."""
    return (torch.arange(size, device=device, dtype=torch.float32) * 2 + 1) / size - 1


def _places(affine: Tensor, size: int) -> Tensor:
    """Where each output pixel comes from: [n, 6] -> [n, size, size, 2], as grid_sample takes it."""
    # Elementwise: the matrix product of F.affine_grid may round otherwise in another batch.
    a, b, c, d, e, f = affine[:, :, None, None].unbind(1)
    x = _centers(size, affine.device)[None, None, :]
    y = _centers(size, affine.device)[None, :, None]
    places = torch.empty(len(affine), size, size, 2, device=affine.device)
    # Rows and columns apart, and into their place: fewer passes over all pixels.
    torch.add(a * x + c, b * y, out=places[..., 0])
    torch.add(d * x, e * y + f, out=places[..., 1])
    return places


def _recolored(images: Tensor, color: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    channels = []
    for row in color[..., None, None].unbind(1):
        by_red, by_green, by_blue, added = row.unbind(1)
        channels.append(by_red * red + by_green * green + by_blue * blue + added)
    return torch.stack(channels, dim=1).clamp_(0.0, 1.0)


def _inside(boxes: Tensor, size: int) -> Tensor:
    """[n, 1, size, size] bool: the pixels whose middle lies in the box [n, 4] of their image."""
    left, top, right, bottom = boxes[:, :, None, None, None].unbind(1)
    x = _centers(size, boxes.device)[None, None, None, :]
    y = _centers(size, boxes.device)[None, None, :, None]
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)
