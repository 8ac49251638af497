"""Pixels from a file, a PIL image or an array to uint8 RGB, and their resizing: one path for all uses.

A picture may come from anybody. What it claims is compared with `Reading`'s limits before any pixel is decoded, only
formats of pictures are opened (PIL would start Ghostscript for a PostScript file), and whatever a decoder raises
becomes one sentence that names the file.
"""

import io
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

EXIF_ORIENTATION = 0x0112
JPEG_END = b"\xff\xd9"
JPEG_SCAN = b"\xff\xda"
ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""Values of the EXIF orientation by which width and height change places."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Endings, in lower case, of the files that are taken for pictures where a folder is searched."""
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""Formats that are opened, by PIL's names."""
MAX_PIXELS = 89_478_485
"""PIL's own limit, at which it warns: a picture of 256 MiB."""
MAX_SCANS = 500
"""Of a JPEG; encoders write about ten. Each takes as long as decoding a whole picture."""
MANY_SCANS = 20
MIN_LEVELS = 16
"""Grey levels of 256, below which a picture of more than 8 bits has most likely another range than assumed."""


@dataclass(frozen=True)
class Reading:
    """How image files are read: limits, the range of values, and where files may lie."""

    max_pixels: int = MAX_PIXELS
    """Width times height of the largest picture that is decoded; eight times as many bytes of the largest file."""
    value_range: tuple[float, float] | None = None
    """The values that become 0 and 255 in pictures of more than 8 bits a channel; None takes 0 and 65535 for whole
    numbers and refuses floating point ones."""
    root: Path | None = None
    """The data set's folder. Files are read from inside it and from the folder of the images."""
    allow_outside: bool = False
    """Whether files elsewhere are read that a name leads to: absolute, by `..`, or a symbolic link."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels={self.max_pixels} must be at least 1")
        if self.value_range is not None:
            try:
                low, high = (float(value) for value in self.value_range)
            except (TypeError, ValueError):
                low = high = math.nan
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"data.value_range={self.value_range} is not understood; wanted the two values that become black "
                    "and white, such as [0,4095] for 12 bits"
                )
            object.__setattr__(self, "value_range", (low, high))

    @property
    def max_bytes(self) -> int:
        """Of a file, and of what an archive holds of one: eight bytes a pixel."""
        return 8 * self.max_pixels


DEFAULT_READING = Reading()


class ReadingOptions(TypedDict, total=False):
    """The settings of a data set that say how its image files are read; see `Reading`."""

    max_pixels: int
    value_range: Sequence[float] | None
    allow_outside: bool


def reading_of(
    root: Path,
    max_pixels: int = MAX_PIXELS,
    value_range: Sequence[float] | None = None,
    allow_outside: bool = False,
) -> Reading:
    """From the settings of the data set in `root`. Raises ValueError for what is none."""
    return Reading(max_pixels, None if value_range is None else tuple(value_range), root, allow_outside)  # type: ignore[arg-type]


class ImageError(ValueError):
    """A picture that is not read, in one sentence with its name."""


class Pixels(NamedTuple):
    """A decoded picture."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB, upright."""
    few_levels: str
    """Why the range of its values is most likely another one; "" where nothing speaks for that."""


def read_regular(path: Path, max_bytes: int | None = None) -> bytes:
    """The content of a file. Raises what opening it does, and ValueError for a pipe, a socket or a device, which may
    never end, and for a file of more than `max_bytes`."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ImageError(f"'{path}' is a pipe, a socket or a device; wanted a file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ImageError(f"file '{path}' has {status.st_size} bytes, more than the {max_bytes} that are read")
    return path.read_bytes()


def read_image(
    file: str | Path | BinaryIO,
    *,
    name: str | None = None,
    shown_at: Callable[[int, int], tuple[int, int]] | None = None,
    reading: Reading = DEFAULT_READING,
) -> np.ndarray:
    """uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    `shown_at` gives the (height, width) that an image of this height and width will be resized to. A JPEG is
    then decoded at a half, a quarter or an eighth of its sides where neither comes out smaller than that, for a
    fraction of the time; a pixel is about the mean of those that it stands for. `name` is what messages call a
    `file` that is open.

    Raises FileNotFoundError where there is no such file, and ValueError, which names the file, where it
    is no image, is cut short or passes a limit of `reading`.
    """
    name = str(file) if name is None else name
    try:
        content = read_regular(Path(file), reading.max_bytes) if isinstance(file, str | Path) else file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"image file '{name}' does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"'{name}' is a folder, where an image file was wanted") from None
    except OSError as error:
        raise ImageError(f"image file '{name}' cannot be read ({error.strerror or error})") from error
    except ImageError:
        raise
    except ValueError as error:  # a name that is none to the system
        raise ImageError(f"image file {name!r} cannot be read ({error})") from error
    pixels = decode_image(content, name, shown_at=shown_at, reading=reading)
    if pixels.few_levels:
        tell_few_levels(str(Path(name).parent), name, pixels.few_levels)
    return pixels.image


@cache  # once a folder, and not for each of its pictures
def tell_few_levels(folder: str, name: str, why: str) -> None:
    """Warns of a picture that keeps few grey levels."""
    logger.warning("image '%s' keeps only %s", name, why)


def decode_image(
    content: bytes,
    name: str,
    *,
    shown_at: Callable[[int, int], tuple[int, int]] | None = None,
    reading: Reading = DEFAULT_READING,
) -> Pixels:
    """The pixels of the file called `name` with this content, as `read_image` says. Raises ImageError."""
    with open_image(content, name, reading) as image:
        size = image.size
        if shown_at is not None:
            width, height = image.size
            if image.getexif().get(EXIF_ORIENTATION, 1) in ON_ITS_SIDE:
                image.draft(None, shown_at(width, height))
            else:
                shown_height, shown_width = shown_at(height, width)
                image.draft(None, (shown_width, shown_height))
        if reading.value_range is not None and is_deep_colour(image):
            return decode_deep_colour(content, image, reading.value_range)
        pixels = decode_jpeg(content, image) if image.size == size else None
        if pixels is not None:
            return Pixels(pixels, "")
        if is_deep_colour(image):
            pixels = to_rgb(image)
            return Pixels(pixels, few_levels(pixels, None))
        if image.mode.startswith(("I", "F")):
            values = np.asarray(upright(image))
            grey = to_8_bit(values, reading.value_range)
            return Pixels(np.repeat(grey[:, :, None], 3, axis=2), few_levels(grey, values))
        return Pixels(to_rgb(image), "")


@contextmanager
def open_image(content: bytes | Path, name: str, reading: Reading) -> Iterator[Image.Image]:
    """The picture, its header read and within the limits. What is raised inside becomes an ImageError."""
    if Image.MAX_IMAGE_PIXELS is not None and reading.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = reading.max_pixels  # which the user asked for
    try:
        if isinstance(content, Path):
            check_regular(content)
        with Image.open(
            io.BytesIO(content) if isinstance(content, bytes) else content, "r", formats()
        ) as image:
            check_limits(image, content, name, reading)
            yield image
    except (ImageError, FileNotFoundError, NotADirectoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"'{name}' is not an image in a format that can be read (JPEG, PNG, …)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"image '{name}' is too large ({error}); if it is what it should be, raise max_pixels="
            f"{reading.max_pixels} (data.max_pixels= of a data set)"
        ) from None
    except MemoryError:
        raise ImageError(
            f"image '{name}' cannot be decoded (memory is not enough); make it smaller"
        ) from None
    except (
        Exception
    ) as error:  # decoders raise whatever they run into: struct.error, IndexError, cv2.error, …
        raise ImageError(
            f"image '{name}' cannot be decoded ({one_line(error)}): the file is truncated, damaged or of an unusual "
            "kind; replace it or leave it out of the data"
        ) from error


def one_line(error: Exception) -> str:
    """The error's first line, or the name of its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that PIL can open here."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def check_regular(path: Path) -> None:
    """Raises ImageError for what is there and no file, FileNotFoundError for what is not there."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"'{path}' is a folder, where an image file was wanted")
    if not stat.S_ISREG(mode):
        raise ImageError(f"'{path}' is a pipe, a socket or a device; wanted a file")


def check_limits(image: Image.Image, content: bytes | Path, name: str, reading: Reading) -> None:
    """Raises ImageError for a picture whose decoding would take more memory or time than its size explains."""
    width, height = image.size
    if width * height > reading.max_pixels:
        raise ImageError(
            f"image '{name}' is too large: {width} wide and {height} high, more than {reading.max_pixels} pixels; if "
            "it is what it should be, raise max_pixels= (data.max_pixels= of a data set)"
        )
    if image.format in ("JPEG", "MPO") and isinstance(content, bytes):
        scans = content.count(JPEG_SCAN)
        if scans > MAX_SCANS or (scans > MANY_SCANS and scans * width * height > 10 * reading.max_pixels):
            raise ImageError(
                f"image '{name}' has {scans} scans, each of which takes as long as a picture; encoders write about "
                "ten: encode it again"
            )


def decode_jpeg(content: bytes, image: Image.Image) -> np.ndarray | None:
    """The same pixels as PIL's of a file that it opened as `image`, by OpenCV in three quarters of the time.

    None, for PIL, where the file is no colour JPEG, lies on its side or does not end as a JPEG ends: OpenCV would
    return the half-decoded picture of a truncated one without a word.
    """
    if image.format != "JPEG" or image.mode != "RGB" or not content.endswith(JPEG_END):
        return None
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        return None
    return cv2.imdecode(
        np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )


def is_deep_colour(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel of a colour picture, of which PIL keeps the upper 8."""
    tile = getattr(image, "tile", None)
    if image.mode.startswith(("I", "F")) or not tile:
        return False
    arguments = tile[0][3]
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return isinstance(raw, str) and ";16" in raw


def decode_deep_colour(content: bytes, image: Image.Image, value_range: tuple[float, float]) -> Pixels:
    """A colour picture of 16 bits a channel with all of its bits."""
    values = cv2.imdecode(
        np.frombuffer(content, np.uint8),
        cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION,
    )
    if values is None:
        raise ValueError("16 bits a channel of this kind are not read")
    scaled = Image.fromarray(to_8_bit(values, value_range))
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        scaled.getexif()[EXIF_ORIENTATION] = orientation
        scaled = ImageOps.exif_transpose(scaled)
    pixels = np.array(scaled)
    return Pixels(pixels, few_levels(pixels, values))


def to_8_bit(values: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """uint8 of any numbers: `value_range` becomes 0 and 255, what is beyond it is clipped, NaN is 0; without one,
    65535 becomes 255. ImageError for floating point numbers, whose range cannot be told, without one."""
    if value_range is None:
        if values.dtype.kind == "f":
            raise ValueError(
                "the image holds floating point numbers, wanted 8 or 16 bits a channel, or the values that are black "
                "and white: data.value_range=[low,high]"
            )
        return (values.clip(0, 65535) // 257).astype(np.uint8)
    low, high = value_range
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round().astype(np.uint8)


def few_levels(pixels: np.ndarray, values: np.ndarray | None) -> str:
    """What is said of a picture of uint8 `pixels` that has lost most of its levels against its `values` (None for 16
    bits whose lower half is gone); "" for any other."""
    num_levels = int(np.count_nonzero(np.bincount(pixels.ravel(), minlength=256)))
    if num_levels >= MIN_LEVELS or (values is None and num_levels < 2):
        return ""
    if values is None:
        return f"{num_levels} of 256 levels of 16 bits a channel; give the range of its values: data.value_range="
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    low, high = float(finite.min()), float(finite.max())
    if values.dtype.kind != "f" and high - low < MIN_LEVELS:
        return ""  # it has no more
    if low == high:
        return ""
    if values.dtype.kind == "f" or low < 0:
        likely = f"[{low:g},{high:g}]"
    else:
        likely = f"[0,{2 ** math.ceil(math.log2(high + 1)) - 1}]"
    return (
        f"{num_levels} of 256 grey levels of values from {low:g} to {high:g}; give their range, such as "
        f"data.value_range={likely}"
    )


def upright(image: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation."""
    return ImageOps.exif_transpose(image) if image.getexif().get(EXIF_ORIENTATION, 1) != 1 else image


def to_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a PIL image of any mode, upright, or of an RGB or grey uint8 array.

    Transparency is dropped; 16-bit grey is scaled so that 65535 becomes 255.
    """
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 2:
            return np.repeat(image[:, :, None], 3, axis=2)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"an image array has shape {image.shape} and dtype {image.dtype}; wanted an RGB array of "
                "shape (height, width, 3) and dtype uint8, values 0 … 255"
            )
        return np.ascontiguousarray(image)
    image = upright(image)
    if image.mode.startswith(("I", "F")):  # PIL's own conversion would clip 16-bit values at 255
        grey = to_8_bit(np.asarray(image), None)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns about the direct way
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def resize(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (H, W, 3) to the size that `preprocessing` asks for, bilinear; antialiased and cropped to the
    centre only if asked for (torchvision's detectors were trained without either)."""
    height, width = preprocessing.output_size(*image.shape[:2])
    if (height, width) != image.shape[:2]:
        if preprocessing.antialias:
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            image = np.array(resized)
        else:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if (side := preprocessing.center_crop) is not None:
        top, left = round((height - side) / 2), round((width - side) / 2)  # torchvision's, halves to even
        image = np.ascontiguousarray(image[top : top + side, left : left + side])
    return image
