"""Where images come from: list them once, then read any one of them by its sample_id."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from datasets import Image as ImageFeature
from PIL import Image, ImageOps
from torch import Tensor

from cotrain_dist.config import DataConfig
from cotrain_dist.errors import UserError

logger = logging.getLogger(__name__)

ReadImage = Callable[[int], Image.Image]
"""sample_id -> RGB image of any size."""


@dataclass(frozen=True)
class Listing:
    """All images of a source, without their pixels."""

    source: str
    paths: tuple[str, ...]
    """Relative to data.root, `/` between the parts."""
    class_ids: Tensor
    """[N] int64."""
    class_names: tuple[str, ...]
    sizes: tuple[int, ...]
    """Bytes."""
    digests: tuple[str, ...]
    """SHA-256 of the content."""


def list_images(config: DataConfig) -> Listing:
    """List the configured source. Raises UserError where there is nothing to list."""
    match config.source:
        case "digits":
            return _list_digits()
        case "imagefolder":
            return _list_folder(Path(config.root or ""))


def image_reader(config: DataConfig, listing: Listing) -> ReadImage:
    """A function that reads one image of the listing; nothing is kept in memory but the digits."""
    match config.source:
        case "digits":
            return _read_digit
        case "imagefolder":
            root = Path(config.root or "")
            _check_files(root, listing)
            return lambda sample_id: _read_file(root / listing.paths[sample_id])


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of scikit-learn: [1797, 8, 8] uint8 and [1797] int64."""
    from sklearn.datasets import load_digits  # a second of import that other sources do not need

    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype(np.uint8), digits.target.astype(np.int64)


def _list_digits() -> Listing:
    pixels, targets = _digits()
    return Listing(
        source="digits",
        paths=tuple(f"{index:04d}" for index in range(len(pixels))),
        class_ids=torch.from_numpy(targets),
        class_names=tuple(str(digit) for digit in range(10)),
        sizes=tuple(image.nbytes for image in pixels),
        digests=tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in pixels),
    )


def _read_digit(sample_id: int) -> Image.Image:
    return Image.fromarray(_digits()[0][sample_id]).convert("RGB")


def _list_folder(root: Path) -> Listing:
    """One folder a class; images may lie in folders below it, other files are passed over.

    Listed here and not by `load_dataset`, which takes folders named train or test for splits,
    reads metadata files, and copies the listing into a cache of the user's.
    """
    if not root.is_dir():
        raise UserError("data.root", root, "is no folder", "name one that holds one folder a class")
    class_names = tuple(
        sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and _is_seen(entry.name))
    )
    extensions = set(Image.registered_extensions())
    paths, class_ids, num_others = [], [], 0
    for class_id, name in enumerate(class_names):
        files = sorted(path for path in (root / name).rglob("*") if path.is_file())
        images = [path for path in files if path.suffix.lower() in extensions]
        images = [p for p in images if all(map(_is_seen, p.relative_to(root / name).parts))]
        num_others += len(files) - len(images)
        paths += images
        class_ids += [class_id] * len(images)
    if num_others:
        logger.warning("data.root: passed over %d files that are no images", num_others)
    if len(class_names) < 2 or not paths:
        raise UserError(
            "data.root",
            root,
            f"holds {len(class_names)} class folder(s) with {len(paths)} image(s)",
            "put the images of each class into a folder of its own, at least two classes",
        )
    contents = [_size_and_digest(path) for path in paths]
    return Listing(
        source="imagefolder",
        paths=tuple(path.relative_to(root).as_posix() for path in paths),
        class_ids=torch.tensor(class_ids),
        class_names=class_names,
        sizes=tuple(size for size, _ in contents),
        digests=tuple(digest for _, digest in contents),
    )


def _is_seen(name: str) -> bool:
    return not name.startswith((".", "_"))


def _size_and_digest(path: Path) -> tuple[int, str]:
    content = path.read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def _check_files(root: Path, listing: Listing) -> None:
    """Compare the size of every file with the groups: cheap, and finds other data by that name."""
    for path, size in zip(listing.paths, listing.sizes, strict=True):
        file = root / path
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            raise UserError(
                "data.root",
                file,
                "is missing"
                if found is None
                else f"has {found} bytes, not {size} as in the groups",
                "name the folder that the groups were drawn from, with its files unchanged",
            )


def _read_file(path: Path) -> Image.Image:
    try:
        decoded = ImageFeature().decode_example({"path": str(path), "bytes": None})
        return to_rgb(decoded)
    # What Pillow raises for damaged or oversized files, by format.
    except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
        raise UserError(
            "data.root", path, f"cannot be read as an image ({error})", "repair or remove the file"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as upright RGB: EXIF rotation applied, alpha laid on white, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        # 32-bit modes state no range: 16-bit PNG files come as I, and brighter values are cut.
        scale = 256 if np.asarray(image).max(initial=0) > 255 else 1
        image = Image.fromarray((np.asarray(image) / scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
