"""Folders of good images among which lie bad ones of many kinds, each with the reason given."""

import io
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 24


def noise(seed: int, mode: str = "RGB", side: int = SIDE) -> Image.Image:
    """An image like no other one, as large after compression as pixels are many."""
    shape = {"L": (side, side), "RGB": (side, side, 3), "RGBA": (side, side, 4)}
    values = np.random.default_rng(seed).integers(0, 256, shape[mode], dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of an image's file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def half(form: str, **options: object) -> bytes:
    """The first half of an image's file."""
    content = encoded(noise(1, side=64), form, **options)
    return content[: len(content) // 2]


def png_of_size(width: int, height: int) -> bytes:
    """A small file that claims some number of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def flipped(form: str, place: float, **options: object) -> bytes:
    """A file with 16 wrong bytes at a place between 0 and 1."""
    content = bytearray(encoded(noise(2, side=64), form, **options))
    start = int(place * len(content))
    content[start : start + 16] = bytes(255 - byte for byte in content[start : start + 16])
    return bytes(content)


def frames(form: str) -> bytes:
    """Three frames; the first is noise."""
    first, *more = (noise(seed, side=SIDE) for seed in (30, 31, 32))
    return encoded(first, form, save_all=True, append_images=more, duration=100)


def floats(value: float) -> bytes:
    values = np.full((SIDE, SIDE), 3.0, dtype=np.float32)
    values[2, 3] = value
    return encoded(Image.fromarray(values), "TIFF")


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def huge(path: Path) -> None:
    with path.open("wb") as file:  # of holes: it takes no room
        file.truncate(3 << 30)


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        here = os.getcwd()
        os.chdir(path.parent)  # the length of a socket's address is limited
        try:
            own.bind(path.name)
        finally:
            os.chdir(here)


HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body></body></html>"
UNKNOWN = "of no image format that Pillow reads"
ANY = ""

# name, how it is made, what its reason holds
BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("empty.jpg", write(b""), "the file is empty"),
    ("empty.png", write(b""), "the file is empty"),
    ("one_byte.jpg", write(b"\xff"), UNKNOWN),
    ("text.jpg", write(b"just some words\n"), UNKNOWN),
    ("page.jpg", write(HTML), UNKNOWN),
    ("zeros.png", write(bytes(5000)), UNKNOWN),
    ("noise.jpg", write(np.random.default_rng(3).bytes(5000)), UNKNOWN),
    ("archive.png", write(b"PK\x03\x04" + bytes(200)), UNKNOWN),
    ("lfs_pointer.jpg", write(b"version https://git-lfs.github.com/spec/v1\noid 1\n"), UNKNOWN),
    ("movie.gif", write(b"\x00\x00\x00\x18ftypmp42" + bytes(500)), UNKNOWN),
    ("header_alone.jpg", write(encoded(noise(4), "JPEG")[:20]), ANY),
    ("header_alone.png", write(encoded(noise(4), "PNG")[:33]), ANY),
    ("half.jpg", write(half("JPEG")), "truncated"),
    ("half_progressive.jpg", write(half("JPEG", progressive=True)), "truncated"),
    ("half.png", write(half("PNG")), "truncated"),
    ("half.gif", write(half("GIF")), ANY),
    ("half.bmp", write(half("BMP")), "truncated"),
    ("half.tiff", write(half("TIFF")), ANY),
    ("half.webp", write(half("WEBP")), ANY),
    ("half.ppm", write(half("PPM")), "truncated"),
    ("half.ico", write(half("ICO")), ANY),
    ("half.tga", write(half("TGA")), "truncated"),
    ("wrong_bytes.png", write(flipped("PNG", 0.5)), ANY),
    ("wrong_header.png", write(flipped("PNG", 0.0)), UNKNOWN),
    ("wrong_bytes.tiff", write(flipped("TIFF", 0.5, compression="tiff_lzw")), ANY),
    ("bomb.png", write(png_of_size(20_000, 20_000)), "exceeds limit"),
    ("bomb.bmp", write(encoded(noise(5), "BMP")[:18] + struct.pack("<ii", 40_000, 40_000)), ANY),
    ("no_pixels.png", write(png_of_size(16, 16)), ANY),
    ("no_width.png", write(png_of_size(0, 16)), ANY),
    ("line.png", write(encoded(Image.new("L", (1, 1000)), "PNG")), "1 x 1000 pixels"),
    ("wide_line.bmp", write(encoded(Image.new("L", (900, 2)), "BMP")), "900 x 2 pixels"),
    ("not_a_number.tiff", write(floats(float("nan"))), "not all finite"),
    ("infinite.tiff", write(floats(float("inf"))), "not all finite"),
    ("postscript.eps", write(encoded(noise(6), "EPS")), UNKNOWN),
    ("postscript.jpg", write(encoded(noise(6), "EPS")), UNKNOWN),
    ("huge.jpg", huge, "has 3221225472 bytes"),
    ("folder.jpg", Path.mkdir, "is a folder"),
    ("pipe.jpg", os.mkfifo, "is no file"),
    ("socket.png", listen, "is no file"),
    ("gone.jpg", lambda path: path.symlink_to("nowhere.jpg"), "is a link to nothing"),
    ("itself.jpg", lambda path: path.symlink_to(path.name), "is a link to nothing"),
    ("device.jpg", lambda path: path.symlink_to("/dev/zero"), "is no file"),
    (
        "outside.png",
        lambda path: path.symlink_to("../../outside.png"),
        "is a link that leaves the folder",
    ),
    (
        "linked_folder",
        lambda path: path.symlink_to("../../outside", target_is_directory=True),
        "is a link to a folder",
    ),
]


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 64)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(20), "JPEG", exif=exif)


# Unusual files that are of use.
GOOD: dict[str, bytes] = {
    "sixteen_bits.png": encoded(sixteen_bits(), "PNG"),
    "sixteen_bits.tiff": encoded(sixteen_bits(), "TIFF"),
    "cmyk.jpg": encoded(noise(21).convert("CMYK"), "JPEG"),
    "palette.png": encoded(noise(22).quantize(16), "PNG", transparency=3),
    "clear.png": encoded(noise(23, "RGBA"), "PNG"),
    "rotated.jpg": rotated(),
    "gray.png": encoded(noise(24, "L"), "PNG"),
    "one_bit.png": encoded(noise(25, "L").convert("1"), "PNG"),
    "frames.gif": frames("GIF"),
    "frames.png": frames("PNG"),
    "frames.webp": frames("WEBP"),
    "frames.tiff": frames("TIFF"),
    "floats.tiff": floats(100.0),
    "png_named.jpg": encoded(noise(26), "PNG"),
    "progressive.jpg": encoded(noise(27), "JPEG", progressive=True),
    "one_pixel.png": encoded(Image.new("L", (1, 1), 9), "PNG"),
    "narrow.png": encoded(Image.new("L", (1, 150), 9), "PNG"),
    "UPPER.PNG": encoded(noise(28), "PNG"),
    "with spaces, commas.png": encoded(noise(29), "PNG"),
}


def make_folder(root: Path, num_per_class: int = 20, classes: str = "abc") -> dict[str, str]:
    """Class folders with bad images among good ones; the reasons by path of the bad ones."""
    root.mkdir(parents=True)
    (root.parent / "outside").mkdir()
    noise(7).save(root.parent / "outside.png")
    for place, name in enumerate(classes):
        (root / name).mkdir()
        for index in range(num_per_class):
            noise(1000 * place + index + 100).save(root / name / f"{index:02d}.png")
    for place, (name, content) in enumerate(GOOD.items()):
        (root / classes[place % len(classes)] / name).write_bytes(content)
    reasons = {}
    for place, (name, make, reason) in enumerate(BAD):
        path = f"{classes[place % len(classes)]}/{name}"
        make(root / path)
        reasons[path] = reason
    reasons |= _without_permission(root / classes[0] / "locked.png")
    return reasons


def _without_permission(path: Path) -> dict[str, str]:
    """A file that only root may read, where this is not root."""
    noise(8).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.unlink()
        return {}
    return {f"{path.parent.name}/{path.name}": "Permission denied"}


def copy_without(root: Path, bad: set[str], to: Path) -> None:
    """The good images of such a folder."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name not in bad:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to / name)
