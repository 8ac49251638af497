"""What is wrong with the image files of a split, and what tells one picture from another.

Legend:
    fingerprint  uint8 (32, 32): the picture in grey, shrunk
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from tasks.data.loading.images import (
    EXIF_ORIENTATION,
    ON_ITS_SIDE,
    ImageError,
    decode_image,
    open_image,
    to_8_bit,
)
from tasks.data.loading.storage import ImageStorage, OutsideError
from tasks.data.progress import step
from tasks.data.quality.issues import (
    EXIF_IGNORED,
    EXIF_ROTATED,
    MISSING,
    OTHER_SIZE,
    OUTSIDE_FILE,
    TRUNCATED,
    UNREADABLE,
    Issue,
)
from tasks.data.quality.jpeg_header import TAIL, JpegHeader, jpeg_header, read_ends

R = TypeVar("R")
CheckImages = Literal["decode", "headers", "none"]
"""How image files are looked at: decoded whole; only their headers and ends (about 0.2 ms each); not at all."""

FINGERPRINT_SIDE = 32
NUM_THREADS = 8  # reading waits for the disk, and PIL decodes without the interpreter's lock
MANY = 5000
"""Images, of which looking at each takes long enough to show how far it is."""
CHUNK = 64
"""Images that a thread looks at one after the other: handing each over by itself takes as long as looking at it."""
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}


@dataclass
class ImageFile:
    """One file, as far as it was looked at."""

    issue: Issue | None = None
    detail: str = ""
    num_bytes: int = 0
    fingerprint: np.ndarray | None = None
    few_levels: str = ""
    """Why the range of its values is most likely another one."""


def check_image_files(
    store: ImageStorage,
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
        return check_image_file(store, name, (size[0], size[1]), decode or fingerprints, fingerprints)

    return in_threads(check, list(names), sizes.tolist())


def in_threads(function: Callable[..., R], *columns: list[Any]) -> list[R]:
    """The function of each row of the columns, several at once."""
    num_rows = len(columns[0])

    def of_chunk(start: int) -> list[R]:
        if num_rows >= MANY:
            step("looking at images", start, num_rows)
        return list(map(function, *(column[start : start + CHUNK] for column in columns)))

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        chunks = list(threads.map(of_chunk, range(0, num_rows, CHUNK)))
    if num_rows >= MANY:
        step("looking at images", num_rows, num_rows)
    return [result for chunk in chunks for result in chunk]


def check_image_file(
    store: ImageStorage, name: str, size: tuple[int, int], decode: bool, fingerprint: bool = False
) -> ImageFile:
    """Looks at the header of the file, and at the pixels with `decode`, or where the end of the file is not
    where one would expect it. Pixels are read by the code that training reads them by."""
    if not decode and (ordinary := ordinary_jpeg(store, name)) is not None:
        header, num_bytes = ordinary
        issue, detail = compare_size(size, (header.height, header.width), header.orientation)
        return ImageFile(issue, detail, num_bytes)
    try:
        source = store.read(name) if decode else store.source(name)
        num_bytes = len(source) if isinstance(source, bytes) else os.path.getsize(source)
    except (FileNotFoundError, NotADirectoryError):
        return ImageFile(MISSING, f"'{name}'")
    except OutsideError as error:
        return ImageFile(OUTSIDE_FILE, str(error))
    except (OSError, ValueError) as error:
        return ImageFile(UNREADABLE, str(error))
    found = ImageFile(num_bytes=num_bytes)
    try:
        with open_image(source, name, store.reading) as image:
            width, height = image.size
            kind, mode = image.format or "", image.mode
            tail = source[-TAIL:] if isinstance(source, bytes) else last_bytes(source)
            orientation = read_orientation(image, tail)
        if mode == "F":
            to_8_bit(np.zeros(1, np.float32), store.reading.value_range)
    except FileNotFoundError:
        return ImageFile(MISSING, f"'{name}'")
    except ValueError as error:
        found.issue, found.detail = UNREADABLE, str(error)
        return found
    if decode or kind not in END_MARKERS or END_MARKERS[kind] not in tail:
        try:
            content = source if isinstance(source, bytes) else store.read(name)
            pixels = decode_image(content, name, reading=store.reading)
        except (OSError, ImageError) as error:
            found.issue, found.detail = TRUNCATED, str(error)
            return found
        found.few_levels = pixels.few_levels
        if fingerprint:
            found.fingerprint = shrunk(pixels.image)
    found.issue, found.detail = compare_size(size, (height, width), orientation)
    return found


def ordinary_jpeg(store: ImageStorage, name: str) -> tuple[JpegHeader, int] | None:
    """Header and bytes of a JPEG in a folder that is whole and within the limits; None of any other file."""
    try:
        source = store.source(name)
        if not isinstance(source, Path):
            return None
        head, tail, num_bytes = read_ends(source)
    except (OSError, ValueError):
        return None
    header = jpeg_header(head)
    if header is None or END_MARKERS["JPEG"] not in tail:
        return None
    return None if header.width * header.height > store.reading.max_pixels else (header, num_bytes)


def fingerprints(store: ImageStorage, names: Sequence[str]) -> list[np.ndarray | None]:
    """One for each picture, which is decoded as small as its format allows; None for one that cannot be read."""

    def fingerprint(name: str) -> np.ndarray | None:
        try:
            image = store.image(name, lambda height, width: (FINGERPRINT_SIDE, FINGERPRINT_SIDE))
        except (OSError, ValueError):
            return None
        return shrunk(image)

    return in_threads(fingerprint, list(names))


def shrunk(image: np.ndarray) -> np.ndarray:
    """The fingerprint of a picture (H, W, 3)."""
    side = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
    return np.asarray(Image.fromarray(image).convert("L").resize(side, Image.Resampling.BOX))


def image_size(store: ImageStorage, name: str) -> tuple[int, int]:
    """(height, width) of the upright image from its header alone, (0, 0) where it cannot be read."""
    if (ordinary := ordinary_jpeg(store, name)) is not None:
        width, height, orientation = ordinary[0]
        return (width, height) if orientation in ON_ITS_SIDE else (height, width)
    try:
        source = store.source(name)
        with open_image(source, name, store.reading) as image:
            width, height = image.size
            tail = source[-TAIL:] if isinstance(source, bytes) else last_bytes(source)
            turned = read_orientation(image, tail) in ON_ITS_SIDE
    except (OSError, ValueError):
        return 0, 0
    return (width, height) if turned else (height, width)


def image_sizes(store: ImageStorage, names: Sequence[str]) -> np.ndarray:
    """(I, 2) int64 of `image_size`."""
    found = in_threads(lambda name: image_size(store, name), list(names))
    return np.array(found, np.int64).reshape(-1, 2)


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
) -> tuple[Issue | None, str]:
    """What is wrong with a declared (height, width) for a file of `stored` size and EXIF `orientation`."""
    upright = stored[::-1] if orientation in ON_ITS_SIDE else stored
    if min(declared) < 1 or declared == upright:
        return (EXIF_ROTATED, f"orientation {orientation}") if orientation in range(2, 9) else (None, "")
    (height, width), (right_height, right_width) = declared, upright
    detail = f"declared {width} wide and {height} high, upright {right_width} wide and {right_height} high"
    return (EXIF_IGNORED if declared == stored else OTHER_SIZE), detail


def file_lengths(store: ImageStorage, names: Sequence[str]) -> list[int]:
    """Bytes of each file, 0 where there is none."""
    return [store.num_bytes(name) for name in names]


def digest(store: ImageStorage, name: str) -> bytes:
    """128-bit digest of a file; b"" of one that cannot be read."""
    try:
        return hashlib.blake2b(store.read(name), digest_size=16).digest()
    except (OSError, ValueError):
        return b""


def check_check_images(check_images: str) -> None:
    """Raises ValueError for a word that is none of `CheckImages`."""
    if check_images not in get_args(CheckImages):
        raise ValueError(
            f"data.check_images={check_images} is unknown; wanted one of {', '.join(get_args(CheckImages))}"
        )
