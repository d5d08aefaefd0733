"""Images: what is listed, every mode read as upright RGB, and each file that cannot be read."""

import re
import struct
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import ReadImage, image_reader, list_images, to_rgb
from cotrain_dist.data.sources.skipped import count_skipped, describe_skipped
from cotrain_dist.data.splits import draw_split_table
from cotrain_dist.errors import UserError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def save(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (4, 4), RED)).save(path, **options)
    return path


def config_of(root: Path) -> DataConfig:
    return DataConfig(source="imagefolder", root=str(root))


def reader_of(root: Path) -> ReadImage:
    """A reader of the image folder; the second class makes it a valid one."""
    save(root / "other" / "0.png")
    config = config_of(root)
    return image_reader(config, list_images(config))


# Digits


def test_digits_are_listed_and_read() -> None:
    from sklearn.datasets import load_digits

    digits, config = load_digits(), DataConfig()
    listing = list_images(config)
    assert len(listing.paths) == len(set(listing.paths)) == 1797
    assert listing.class_names == tuple("0123456789")
    assert listing.class_ids.tolist() == digits.target.tolist()
    assert set(listing.sizes) == {64}
    assert {len(digest) for digest in listing.digests} == {64}

    image = image_reader(config, listing)(5)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    expected = np.repeat(np.round(digits.images[5] * 255 / 16)[:, :, None], 3, axis=2)
    assert np.array_equal(np.asarray(image), expected)
    assert expected.max() == 255


# Listing of folders


def test_listing_is_sorted_by_class_and_path(tmp_path: Path) -> None:
    for name in ("b/z.png", "b/a.JPG", "a/deep/er/x.png", "a/q.bmp", "b/deep/c.png"):
        save(tmp_path / name)
    listing = list_images(config_of(tmp_path))
    assert listing.source == "imagefolder"
    assert listing.class_names == ("a", "b")
    assert listing.paths == ("a/deep/er/x.png", "a/q.bmp", "b/a.JPG", "b/deep/c.png", "b/z.png")
    assert listing.class_ids.tolist() == [0, 0, 1, 1, 1]
    contents = [(tmp_path / path).read_bytes() for path in listing.paths]
    assert listing.sizes == tuple(map(len, contents))
    assert listing.digests == tuple(sha256(content).hexdigest() for content in contents)


def test_folders_named_like_splits_are_classes(tmp_path: Path) -> None:
    for name in ("train", "test", "validation"):
        save(tmp_path / name / "0.png")
    assert list_images(config_of(tmp_path)).class_names == ("test", "train", "validation")


def test_files_that_are_no_images_are_skipped_and_counted(tmp_path: Path) -> None:
    save(tmp_path / "a" / "0.png")
    save(tmp_path / "b" / "0.png")
    save(tmp_path / "a" / ".hidden.png")
    save(tmp_path / "a" / "._0.png")
    save(tmp_path / ".git" / "0.png")
    save(tmp_path / "__pycache__" / "0.png")
    save(tmp_path / "beside.png")
    for name in ("a/notes.txt", "a/metadata.jsonl", "b/Thumbs.db", "b/noextension"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "b" / "folder.png").mkdir()
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    listing = list_images(config_of(tmp_path))
    assert listing.class_names == ("a", "b")
    assert listing.paths == ("a/0.png", "b/0.png")
    assert count_skipped(tmp_path, has_classes=True) == {
        "hidden folders": 2,
        "hidden files": 2,
        "files beside the class folders": 1,
        "files without the ending of an image (.db, .jsonl, .txt, ...)": 4,
    }
    assert "files beside the class folders" not in count_skipped(tmp_path, has_classes=False)
    (line,) = describe_skipped(config_of(tmp_path))
    assert line.startswith(f"skipped in {tmp_path}: 2 hidden folders, 1 files beside the")
    assert [(one.path, one.class_name, one.reason) for one in listing.bad] == [
        ("b/folder.png", "b", "is a folder"),
        ("b/gone.png", "b", "is a link to nothing"),
    ]
    assert describe_skipped(config_of(tmp_path / "a" / "deep")) == []


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", ".thumbnails", "__MACOSX"])
def test_hidden_folders_within_a_class_are_passed_over(tmp_path: Path, folder: str) -> None:
    # They hold copies: an image of T could come back in L.
    for path in ("a/0.png", f"a/{folder}/0.png", f"a/deep/{folder}/0.png", "b/0.png"):
        save(tmp_path / path)
    assert list_images(config_of(tmp_path)).paths == ("a/0.png", "b/0.png")


def test_hidden_folder_above_the_root_hides_nothing(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "_data"
    for path in ("a/0.png", "b/0.png"):
        save(root / path)
    assert list_images(config_of(root)).paths == ("a/0.png", "b/0.png")


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ([], "holds 0 class folder(s) with 0 image(s)"),
        (["a/0.png", "a/1.png"], "holds 1 class folder(s) with 2 image(s)"),
        (["0.png", "1.png"], "holds 0 class folder(s) with 0 image(s)"),
        (["a/0.txt", "b/0.txt"], "holds 2 class folder(s) with 0 image(s)"),
    ],
)
def test_root_without_two_classes(tmp_path: Path, files: list[str], rule: str) -> None:
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"never opened")
    with pytest.raises(UserError, match=re.escape(f"data.root: {tmp_path}: {rule}")):
        list_images(config_of(tmp_path))


def test_root_that_is_no_folder(tmp_path: Path) -> None:
    file = save(tmp_path / "0.png")
    for root in (tmp_path / "absent", file):
        with pytest.raises(UserError, match=re.escape(f"data.root: {root}: is no folder")):
            list_images(config_of(root))


def test_empty_class_is_named_when_groups_are_drawn(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / "full" / f"{i}.png")
    (tmp_path / "hollow").mkdir()
    config = config_of(tmp_path)
    with pytest.raises(UserError, match=r"data.root: hollow \(0 images\): each class needs"):
        draw_split_table(list_images(config), config, seed=0)


# Reading


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 255, 0, *RED, *BLUE])
    image.putpixel((1, 0), 1)
    return image


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.full((4, 4), 0xABCD, dtype=np.uint16))


# name, image, options of save, pixels expected at (0, 0) and (1, 0)
MODES = [
    ("rgb.png", Image.new("RGB", (4, 4), (10, 20, 30)), {}, (10, 20, 30), None),
    ("gray.png", Image.new("L", (4, 4), 77), {}, (77, 77, 77), None),
    ("one_bit_white.png", Image.new("1", (4, 4), 1), {}, WHITE, None),
    ("one_bit_black.png", Image.new("1", (4, 4), 0), {}, (0, 0, 0), None),
    ("cmyk.tiff", Image.new("CMYK", (4, 4), (0, 255, 255, 0)), {}, RED, None),
    ("palette.gif", Image.new("P", (4, 4), 0), {}, (0, 0, 0), None),
    ("palette.png", palette_with_transparency(), {"transparency": 0}, WHITE, RED),
    ("gray_alpha.png", Image.new("LA", (4, 4), (100, 0)), {}, WHITE, None),
    ("gray_opaque.png", Image.new("LA", (4, 4), (100, 255)), {}, (100, 100, 100), None),
    ("rgba_clear.png", Image.new("RGBA", (4, 4), (*RED, 0)), {}, WHITE, None),
    ("rgba_half.png", Image.new("RGBA", (4, 4), (*RED, 51)), {}, (255, 204, 204), None),
    ("rgb_key.png", Image.new("RGB", (4, 4), RED), {"transparency": RED}, WHITE, None),
    ("sixteen.png", sixteen_bits(), {}, (0xAB, 0xAB, 0xAB), None),
]


@pytest.mark.parametrize(
    ("name", "image", "options", "first", "second"), MODES, ids=[m[0] for m in MODES]
)
def test_every_mode_is_read_as_rgb(
    tmp_path: Path,
    name: str,
    image: Image.Image,
    options: dict[str, object],
    first: tuple[int, int, int],
    second: tuple[int, int, int] | None,
) -> None:
    save(tmp_path / "a" / name, image, **options)
    read = reader_of(tmp_path)(0)
    assert (read.mode, read.size) == ("RGB", (4, 4))
    assert read.getpixel((0, 0)) == first
    assert read.getpixel((1, 0)) == (second or first)


def test_cmyk_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    save(tmp_path / "a" / "0.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100)
    pixel = np.asarray(reader_of(tmp_path)(0))[8, 8].astype(int)
    assert np.abs(pixel - RED).max() <= 4


@pytest.mark.parametrize(
    ("orientation", "size", "red_at", "blue_at"),
    [
        (1, (32, 16), (4, 8), (28, 8)),
        (3, (32, 16), (28, 8), (4, 8)),  # turned by 180 degrees
        (6, (16, 32), (8, 4), (8, 28)),  # by 90 clockwise: what was left comes on top
        (8, (16, 32), (8, 28), (8, 4)),  # by 90 the other way
    ],
)
def test_rotated_photographs_are_read_upright(
    tmp_path: Path,
    orientation: int,
    size: tuple[int, int],
    red_at: tuple[int, int],
    blue_at: tuple[int, int],
) -> None:
    stored = Image.new("RGB", (32, 16), RED)
    stored.paste(BLUE, (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a" / "0.jpg", stored, exif=exif, quality=100, subsampling=0)
    assert Image.open(path).size == (32, 16)
    image = reader_of(tmp_path)(0)
    assert image.size == size
    pixels = np.asarray(image).astype(int)
    assert np.abs(pixels[red_at[::-1]] - RED).max() <= 4
    assert np.abs(pixels[blue_at[::-1]] - BLUE).max() <= 4


def test_to_rgb_turns_upright_by_itself(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "0.jpg", Image.new("RGB", (32, 16), RED), exif=exif)
    assert to_rgb(Image.open(path)).size == (16, 32)


@pytest.mark.parametrize(
    ("mode", "value", "gray"), [("I", 0xABCD, 0xAB), ("I", 200, 200), ("F", 12.0, 12), ("I", -5, 0)]
)
def test_32_bit_modes_are_scaled_to_8_bits(mode: str, value: float, gray: int) -> None:
    image = to_rgb(Image.new(mode, (2, 2), value))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (gray, gray, gray))


def test_reader_reads_by_sample_id(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "a" / f"{i}.png", Image.new("L", (4, 4), i))
    read = reader_of(tmp_path)
    assert [read(i).getpixel((0, 0))[0] for i in (2, 0, 1)] == [2, 0, 1]


# Files that changed or cannot be read


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"1234"), "has 4 bytes, not {size} as in splits.parquet"),
    ],
)
def test_changed_files_are_named(
    tmp_path: Path, change: Callable[[Path], object], rule: str
) -> None:
    path = save(tmp_path / "a" / "0.png")
    save(tmp_path / "b" / "0.png")
    config = config_of(tmp_path)
    listing = list_images(config)
    image_reader(config, listing)
    change(path)
    message = f"data.root: {path}: {rule.format(size=listing.sizes[0])}; name the folder"
    with pytest.raises(UserError, match=re.escape(message)):
        image_reader(config, listing)


def half_of(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    save(path, Image.fromarray(noise))
    content = path.read_bytes()
    return content[: len(content) // 2]


def oversized_png(path: Path) -> bytes:
    """A small file that claims 20,000 x 20,000 pixels, more than Pillow agrees to decode."""
    content = save(path, Image.new("L", (4, 4))).read_bytes()
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("0.png", half_of),
        ("0.jpg", half_of),
        ("0.gif", half_of),
        ("0.webp", half_of),
        ("0.tiff", half_of),
        ("0.bmp", half_of),
        ("0.png", lambda path: b"<html>not found</html>"),
        ("0.jpg", lambda path: b""),
        ("0.pdf", lambda path: b"%PDF-1.4"),  # Pillow writes these, but cannot read them
        ("0.png", oversized_png),
    ],
    ids=["png", "jpg", "gif", "webp", "tiff", "bmp", "text", "empty", "pdf", "oversized"],
)
def test_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, damage: Callable[[Path], bytes]
) -> None:
    path = tmp_path / "a" / name
    path.parent.mkdir()
    content = damage(path)
    path.write_bytes(content)
    read = reader_of(tmp_path)
    with pytest.raises(
        UserError, match=re.escape(f"data.root: {path}: cannot be read as an image")
    ):
        read(0)
