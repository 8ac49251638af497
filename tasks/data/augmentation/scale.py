"""Augmentation of size: scale jitter with a fixed crop, several scales, crops that keep objects."""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np

from tasks.data.augmentation.geometry import Sample, crop, resized
from tasks.data.augmentation.pipeline import Transform, TransformContext
from tasks.targets import Target

Keep = Literal["one", "all"]


class LargeScaleJitter(Transform):
    """Resizes the image to a random scale and cuts out a window of fixed size (Simple Copy-Paste is a Strong Data
    Augmentation Method, section 3). What an image is too small to fill is left to the padding of the batch."""

    sets_size: ClassVar[bool] = True
    needs_whole_images: ClassVar[bool] = True

    def __init__(self, *, size: Sequence[int] | None = None, scale: Sequence[float] = (0.1, 2.0)):
        """`size` (height, width) of the window; None takes preprocessing.short_side for both, or where that is null
        the image's own size. At scale 1 the image just fits into the window."""
        super().__init__()
        self.size = None if size is None else pair(size, f"LargeScaleJitter: size={size}")
        self.scale = interval(scale, f"LargeScaleJitter: scale={scale}")

    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        side = around.preprocessing.short_side
        height, width = self.size or (image.shape[:2] if side is None else (side, side))
        zoom = around.generator.uniform(*self.scale) * min(height / image.shape[0], width / image.shape[1])
        image, target = resized(image, target, zoomed(image.shape[:2], zoom))
        return crop(image, target, random_window(image.shape[:2], (height, width), around.generator))


class MultiScale(Transform):
    """Resizes the image to a random part of the size at which evaluation shows it, its shape kept."""

    sets_size: ClassVar[bool] = True
    needs_whole_images: ClassVar[bool] = True

    def __init__(self, *, scale: Sequence[float] = (0.8, 1.0)):
        """`scale` is between which shares of preprocessing.short_side, or where that is null of the image, the
        shorter side will be: (0.8, 1.0) of 800 pixels are 640 to 800."""
        super().__init__()
        self.scale = interval(scale, f"MultiScale: scale={scale}")

    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        size = around.preprocessing.output_size(*image.shape[:2])
        return resized(image, target, zoomed(size, around.generator.uniform(*self.scale)))


class CropKeepingBoxes(Transform):
    """Cuts out a random window that holds an object, or all of them, whole; without objects any window."""

    needs_whole_images: ClassVar[bool] = True

    def __init__(
        self, *, keep: Keep = "one", min_side: float = 0.4, p: float = 1.0, close_mosaic_epochs: int = 0
    ):
        """Sides of the window are from `min_side` to 1 of the image's, or longer where what it is to `keep`, "one"
        object drawn at random or "all", is. Others are cut, and go where too little of them is left."""
        super().__init__(p=p, close_mosaic_epochs=close_mosaic_epochs)
        if keep not in get_args(Keep):
            raise ValueError(
                f"CropKeepingBoxes: keep={keep} is unknown; wanted {' or '.join(get_args(Keep))}"
            )
        if not 0 < min_side <= 1:
            raise ValueError(f"CropKeepingBoxes: min_side={min_side} must be above 0 and at most 1")
        self.keep: Keep = keep
        self.min_side = min_side

    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        generator = around.generator
        sizes = np.array(image.shape[1::-1])  # width, height
        sides = np.ceil(generator.uniform(self.min_side, 1, 2) * sizes).astype(int)
        low, high = sizes, np.zeros(2, int)  # of what must stay; nothing
        if len(target.boxes):
            rows = slice(None) if self.keep == "all" else [int(generator.integers(len(target.boxes)))]
            boxes = target.boxes[rows].astype(np.float64)
            low = np.floor(boxes[:, :2].min(axis=0)).clip(0, sizes).astype(int)
            high = np.ceil(boxes[:, 2:].max(axis=0)).clip(0, sizes).astype(int)
        sides = np.maximum(sides, high - low)
        first = (high - sides).clip(0)
        last = np.minimum(low, sizes - sides)
        left, top = generator.integers(first, last + 1).tolist()
        return crop(image, target, (left, top, left + int(sides[0]), top + int(sides[1])))


def zoomed(size: tuple[int, int], zoom: float) -> tuple[int, int]:
    """`size` (height, width) times `zoom`, at least one pixel."""
    return max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))


def random_window(
    size: tuple[int, int], window: tuple[int, int], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """A window of so many pixels (height, width), or of all there are where that is fewer, anywhere in an image of
    `size`."""
    height, width = min(size[0], window[0]), min(size[1], window[1])
    top, left = generator.integers(size[0] - height + 1), generator.integers(size[1] - width + 1)
    return int(left), int(top), int(left) + width, int(top) + height


def interval(values: Sequence[float], option: str) -> tuple[float, float]:
    """The two ends of a range of scales. ValueError, which begins with `option`, for anything else."""
    if len(values) != 2 or not 0 < values[0] <= values[1] < float("inf"):
        raise ValueError(f"{option} must be two numbers above 0, the smaller one first")
    return float(values[0]), float(values[1])


def pair(values: Sequence[int], option: str) -> tuple[int, int]:
    """A height and a width. ValueError, which begins with `option`, for anything else."""
    if len(values) != 2 or min(values) < 1:
        raise ValueError(f"{option} must be a height and a width in pixels, such as [1024, 1024]")
    return int(values[0]), int(values[1])
