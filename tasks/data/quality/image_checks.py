"""What is wrong with the image files of a split, and what tells one picture from another.

Legend:
    fingerprint  uint8 (32, 32): the picture in grey, shrunk
"""

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.data.loading.images import EXIF_ORIENTATION, ON_ITS_SIDE
from tasks.data.loading.storage import in_archive, open_store, read_file
from tasks.data.quality.issues import (
    EXIF_IGNORED,
    EXIF_ROTATED,
    MISSING,
    OTHER_SIZE,
    TRUNCATED,
    UNREADABLE,
    Fault,
)

CheckImages = Literal["decode", "headers", "none"]
"""How image files are looked at: decoded whole; only their headers and ends (about 0.2 ms each); not at all."""

FINGERPRINT_SIDE = 32
NUM_THREADS = 8  # reading waits for the disk, and PIL decodes without the interpreter's lock
TAIL = 4096
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError)
"""What PIL raises over files that are cut short or damaged."""


@dataclass
class ImageFile:
    """One file, as far as it was looked at."""

    fault: Fault | None = None
    detail: str = ""
    num_bytes: int = 0
    fingerprint: np.ndarray | None = None


def check_image_files(
    folder: Path,
    names: Sequence[str],
    sizes: np.ndarray,
    check_images: CheckImages,
    *,
    fingerprints: bool = False,
) -> list[ImageFile]:
    """One `ImageFile` for each name; `sizes` (I, 2) are the declared (height, width), (0, 0) where unknown."""
    if check_images == "none":
        return [ImageFile() for _ in names]
    decode = check_images == "decode"

    def check(name: str, size: list[int]) -> ImageFile:
        return check_image_file(folder / name, (size[0], size[1]), decode, fingerprints)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return list(threads.map(check, names, sizes.tolist()))


def check_image_file(path: Path, size: tuple[int, int], decode: bool, fingerprint: bool = False) -> ImageFile:
    """Looks at the header of the file, and at the pixels with `decode`, or where the end of the file is not
    where one would expect it."""
    try:
        data = read_file(path) if decode or fingerprint or in_archive(path) is not None else None
        found = ImageFile(num_bytes=os.path.getsize(path) if data is None else len(data))
    except (FileNotFoundError, NotADirectoryError):
        return ImageFile(MISSING, f"'{path}'")
    except OSError as error:
        return ImageFile(UNREADABLE, str(error))
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            width, height = image.size
            kind = image.format or ""
            tail = last_bytes(path) if data is None else data[-TAIL:]
            try:
                if decode or fingerprint or kind not in END_MARKERS or END_MARKERS[kind] not in tail:
                    image.load()
                orientation = read_orientation(image, tail)
            except BROKEN as error:
                found.fault, found.detail = TRUNCATED, str(error)
                return found
            if fingerprint:
                small = ImageOps.exif_transpose(image).convert("L")
                side = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
                found.fingerprint = np.asarray(small.resize(side, Image.Resampling.BOX))
    except BROKEN as error:
        found.fault = UNREADABLE
        found.detail = "no image" if isinstance(error, UnidentifiedImageError) else str(error)
        return found
    found.fault, found.detail = compare_size(size, (height, width), orientation)
    return found


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image from its header alone, (0, 0) where it cannot be read."""
    try:
        data = None if in_archive(path) is None else read_file(path)
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            width, height = image.size
            tail = last_bytes(path) if data is None else data[-TAIL:]
            turned = read_orientation(image, tail) in ON_ITS_SIDE
    except BROKEN:
        return 0, 0
    return (width, height) if turned else (height, width)


def last_bytes(path: Path) -> bytes:
    """The end of the file, in which there is the mark that the whole of it is there."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL))
        return file.read()


def read_orientation(image: Image.Image, tail: bytes) -> int:
    """The EXIF orientation, 1 for none. PIL decodes a PNG to look for EXIF behind its pixels; `tail`, the end of
    the file, says faster that there is none."""
    if image.format == "PNG" and not {"exif", "XML:com.adobe.xmp"} & set(image.info) and b"eXIf" not in tail:
        return 1
    return image.getexif().get(EXIF_ORIENTATION, 1)


def compare_size(
    declared: tuple[int, int], stored: tuple[int, int], orientation: int
) -> tuple[Fault | None, str]:
    """What is wrong with a declared (height, width) for a file of `stored` size and EXIF `orientation`."""
    upright = stored[::-1] if orientation in ON_ITS_SIDE else stored
    if min(declared) < 1 or declared == upright:
        return (EXIF_ROTATED, f"orientation {orientation}") if orientation not in (0, 1) else (None, "")
    (height, width), (right_height, right_width) = declared, upright
    detail = f"declared {width} wide and {height} high, upright {right_width} wide and {right_height} high"
    return (EXIF_IGNORED if declared == stored else OTHER_SIZE), detail


def file_lengths(folder: Path, names: Sequence[str]) -> list[int]:
    """Bytes of each file, 0 where there is none."""
    if in_archive(folder) is not None:
        store = open_store(folder)
        missing = set(store.missing(names))
        return [0 if name in missing else len(store.read(name)) for name in names]
    paths = [folder / name for name in names]
    return [os.path.getsize(path) if path.is_file() else 0 for path in paths]


def digest(path: Path) -> bytes:
    """What is equal for equal files alone."""
    return hashlib.blake2b(read_file(path), digest_size=16).digest()


def check_check_images(check_images: str) -> None:
    """Raises ValueError for a word that is none of `CheckImages`."""
    if check_images not in get_args(CheckImages):
        raise ValueError(
            f"data.check_images={check_images} is unknown; wanted one of {', '.join(get_args(CheckImages))}"
        )
