"""Damaged pictures of all formats that are read; the doctor and the loader must say the same of each."""

import io
import random
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tasks.data.loading.images import Reading, read_image
from tasks.data.loading.storage import FolderStorage
from tasks.data.quality.image_checks import check_image_file
from tasks.data.quality.issues import MISSING, TRUNCATED, UNREADABLE
from tests.fuzz.mutation import damage

READING = Reading(max_pixels=4_000_000)


class Input(NamedTuple):
    """One picture."""

    name: str
    """What it is, in words."""
    file: str
    content: bytes


def inputs(seed: int) -> Iterator[Input]:
    """Pictures without end; the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        file, content = rng.choice(genuine())
        yield Input(f"damaged {file}", file, damage(content, rng))


def check(given: Input) -> str:
    """What is wrong with how the picture is read; "" for nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / given.file
        path.write_bytes(given.content)
        reading = Reading(READING.max_pixels, root=Path(folder))
        try:
            image = read_image(path, reading=reading)
        except ValueError as error:
            loads = False
            if given.file not in str(error) or "\n" in str(error):
                return f"the message names no file, or has more than a line: {error}"
        else:
            loads = True
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                return f"read as {image.dtype} {image.shape}"
        found = check_image_file(FolderStorage(Path(folder), reading), given.file, (0, 0), decode=True)
        passes = found.issue not in (UNREADABLE, TRUNCATED, MISSING)
        if loads != passes:
            return f"the loader {'reads' if loads else 'refuses'} it, the doctor says '{found.detail}'"
    return ""


@cache
def genuine() -> list[tuple[str, bytes]]:
    """Name and content of sound pictures."""
    rng = np.random.default_rng(0)
    colours = np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    rgb = Image.fromarray(colours)
    deep = Image.fromarray(colours[:, :, 0].astype(np.uint16) * 17)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        ("a.jpg", rgb, {}), ("progressive.jpg", rgb, {"progressive": True}), ("turned.jpg", rgb, {"exif": exif}),
        ("grey.jpg", rgb.convert("L"), {}), ("cmyk.jpg", rgb.convert("CMYK"), {}), ("a.png", rgb, {}),
        ("palette.png", rgb.convert("P"), {"transparency": 3}), ("alpha.png", rgb.convert("RGBA"), {}),
        ("deep.png", deep, {}), ("bits.png", rgb.convert("1"), {}), ("a.tif", rgb, {}), ("deep.tif", deep, {}),
        ("lzw.tif", rgb, {"compression": "tiff_lzw"}), ("jpeg.tif", rgb, {"compression": "jpeg"}),
        ("float.tif", Image.fromarray(colours[:, :, 0].astype(np.float32)), {}),
        ("long.tif", Image.fromarray(colours[:, :, 0].astype(np.int32)), {}), ("a.bmp", rgb, {}), ("a.webp", rgb, {}),
        ("a.gif", rgb.convert("P"), {}), ("a.ppm", rgb, {}),
    ]  # fmt: skip
    found = []
    for file, image, options in kinds:
        buffer = io.BytesIO()
        image.save(
            buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(file[-3:], file.rpartition(".")[2].upper()), **options
        )
        found.append((file, buffer.getvalue()))
    return found
