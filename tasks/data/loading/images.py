"""Pixels from a file, a PIL image or an array to uint8 RGB, and their resizing: one path for all uses."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.preprocessing import Preprocessing

EXIF_ORIENTATION = 0x0112
JPEG_END = b"\xff\xd9"
ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""Values of the EXIF orientation by which width and height change places."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Endings, in lower case, of the files that are taken for pictures where a folder is searched."""


def read_image(
    file: str | Path | BinaryIO,
    *,
    name: str | None = None,
    shown_at: Callable[[int, int], tuple[int, int]] | None = None,
) -> np.ndarray:
    """uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    `shown_at` gives the (height, width) that an image of this height and width will be resized to. A JPEG is
    then decoded at a half, a quarter or an eighth of its sides where neither comes out smaller than that, for a
    fraction of the time; a pixel is about the mean of those that it stands for. `name` is what messages call a
    `file` that is open.

    Raises FileNotFoundError where there is no such file, and ValueError, which names the file, where it
    is no image or is cut short.
    """
    name = str(file) if name is None else name
    try:
        content = Path(file).read_bytes() if isinstance(file, str | Path) else file.read()
        with Image.open(io.BytesIO(content)) as image:
            size = image.size
            if shown_at is not None:
                width, height = image.size
                if image.getexif().get(EXIF_ORIENTATION, 1) in ON_ITS_SIDE:
                    image.draft(None, shown_at(width, height))
                else:
                    shown_height, shown_width = shown_at(height, width)
                    image.draft(None, (shown_width, shown_height))
            pixels = decode_jpeg(content, image) if image.size == size else None
            return to_rgb(image) if pixels is None else pixels
    except FileNotFoundError:
        raise FileNotFoundError(f"image file '{name}' does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"'{name}' is a folder, where an image file was wanted") from None
    except UnidentifiedImageError:
        raise ValueError(f"'{name}' is not an image in a format that can be read (JPEG, PNG, …)") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(
            f"image '{name}' cannot be decoded ({error}): the file is truncated, damaged or of an unusual "
            "kind; replace it or leave it out of the data"
        ) from error


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
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # PIL's own conversion would clip 16-bit values at 255
        grey = (np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("the image holds floating point numbers; wanted 8 or 16 bits a channel")
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
