"""Pictures for the page: two side by side, small enough to lie in it."""

import base64
import io

import numpy as np
from PIL import Image

from tasks.report.page import Picture

MAX_SIDE = 560
"""Pixels of the longer side of each half."""
_GAP = 6


def side_by_side(*images: np.ndarray) -> np.ndarray:
    """Images uint8 (H, W, 3) in a row, each shrunk to at most `MAX_SIDE`, the gap grey."""
    small = [_shrunk(image) for image in images]
    height = max(image.shape[0] for image in small)
    width = sum(image.shape[1] for image in small) + _GAP * (len(small) - 1)
    canvas = np.full((height, width, 3), 128, np.uint8)
    left = 0
    for image in small:
        canvas[: image.shape[0], left : left + image.shape[1]] = image
        left += image.shape[1] + _GAP
    return canvas


def encoded(image: np.ndarray, words: str) -> Picture:
    """As a JPEG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=80)
    return Picture(base64.b64encode(buffer.getvalue()).decode(), image.shape[1], image.shape[0], words)


def _shrunk(image: np.ndarray) -> np.ndarray:
    scale = MAX_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
