"""Augmentation out of several images: mosaic, mixup, cutmix, copy-paste; whole objects with their boxes and masks.

Each other image is drawn at random and comes through the transforms that stand before this one.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tasks.data.augmentation.geometry import (
    Sample,
    concatenate,
    crop,
    occlude,
    occlude_by_mask,
    resized,
    selected,
    translate,
)
from tasks.data.augmentation.pipeline import Transform, TransformContext
from tasks.data.augmentation.scale import interval, random_window, zoomed
from tasks.preprocessing import Preprocessing
from tasks.targets import IGNORE_LABEL, Target


class Mosaic(Transform):
    """Four images meet at a point of one picture of the first one's size (YOLOv4, section 3.4)."""

    def __init__(
        self,
        *,
        scale: Sequence[float] = (0.5, 1.0),
        centre: float = 0.25,
        p: float = 1.0,
        close_mosaic_epochs: int = 0,
    ):
        """Each image is shown at a random `scale`, 1 being where it just fits into the picture, as far as there is
        room. The point where they meet is at least `centre` of the picture's sides away from its borders. The last
        `close_mosaic_epochs` of a run see no mosaics, so that it ends on pictures as they are (YOLOX, section 2)."""
        super().__init__(p=p, close_mosaic_epochs=close_mosaic_epochs)
        self.scale = interval(scale, f"Mosaic: scale={scale}")
        if not 0 < centre <= 0.5:
            raise ValueError(f"Mosaic: centre={centre} must be above 0 and at most 0.5")
        self.centre = centre

    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        check_no_class(target, "Mosaic")
        generator = around.generator
        height, width = image.shape[:2]
        canvas = np.full_like(image, mean_colour(around.preprocessing))
        class_map = None if target.class_map is None else np.full((height, width), IGNORE_LABEL, np.uint8)
        x, y = (
            min(max(1, round(side * generator.uniform(self.centre, 1 - self.centre))), max(1, side - 1))
            for side in (width, height)
        )
        quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        samples: list[Sample] = [(image, target), *(around.another() for _ in range(3))]
        parts = []
        for number, (left, top, right, bottom) in zip(generator.permutation(4), quarters, strict=True):
            if right == left or bottom == top:
                continue
            part, found = fitted(samples[number], (height, width), generator.uniform(*self.scale))
            window = random_window(part.shape[:2], (bottom - top, right - left), generator)
            part, found = crop(part, found, window)
            # What does not fill its quarter stands at the point where all meet.
            left = left if left == x else right - part.shape[1]
            top = top if top == y else bottom - part.shape[0]
            canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
            if class_map is not None:
                assert found.class_map is not None
                class_map[top : top + part.shape[0], left : left + part.shape[1]] = found.class_map
            parts.append(translate(found, left, top))
        nothing = selected(replace(target, class_map=None), np.zeros(len(target.boxes), bool))
        return canvas, replace(concatenate(nothing, parts), class_map=class_map)


class MixUp(Transform):
    """The weighted mean of two images, with the objects of both (Bag of Freebies for Training Object Detection,
    section 3.1)."""

    def __init__(self, *, alpha: float = 8.0, p: float = 1.0, close_mosaic_epochs: int = 0):
        """The image's own share is drawn from Beta(`alpha`, `alpha`): about a half where that is large."""
        super().__init__(p=p, close_mosaic_epochs=close_mosaic_epochs)
        if not 0 < alpha < float("inf"):
            raise ValueError(f"MixUp: alpha={alpha} must be above 0")
        self.alpha = alpha

    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        check_no_class(target, "MixUp")
        if target.class_map is not None:
            raise ValueError(
                "augmentation MixUp leaves no pixel with one class, which semantic segmentation learns; leave it out"
            )
        share = around.generator.beta(self.alpha, self.alpha)
        other, found = fitted(around.another(), image.shape[:2], 1.0)
        left, top, right, bottom = random_window(image.shape[:2], other.shape[:2], around.generator)
        mixed = image.copy()
        below = mixed[top:bottom, left:right].astype(np.float32)
        mixed[top:bottom, left:right] = np.rint(share * below + (1 - share) * other)
        return mixed, concatenate(target, [translate(found, left, top)])


class CutMix(Transform):
    """A rectangle of the image shows a piece of another one, with the objects in it (CutMix, section 3.1)."""

    def __init__(self, *, alpha: float = 1.0, p: float = 1.0, close_mosaic_epochs: int = 0):
        """The share of the image that stays is drawn from Beta(`alpha`, `alpha`)."""
        super().__init__(p=p, close_mosaic_epochs=close_mosaic_epochs)
        if not 0 < alpha < float("inf"):
            raise ValueError(f"CutMix: alpha={alpha} must be above 0")
        self.alpha = alpha

    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        check_no_class(target, "CutMix")
        generator = around.generator
        side = (1 - generator.beta(self.alpha, self.alpha)) ** 0.5
        other = fitted(around.another(), image.shape[:2], 1.0)
        source = random_window(other[0].shape[:2], zoomed(image.shape[:2], side), generator)
        piece, found = crop(*other, source)
        window = random_window(image.shape[:2], piece.shape[:2], generator)
        left, top, right, bottom = window
        mixed, class_map = image.copy(), target.class_map
        mixed[top:bottom, left:right] = piece
        if class_map is not None:
            class_map = class_map.copy()
            class_map[top:bottom, left:right] = found.class_map
        rest = occlude(target, window)
        return mixed, replace(concatenate(rest, [translate(found, left, top)]), class_map=class_map)


class CopyPaste(Transform):
    """Some objects of another image, cut out along their masks, are pasted into this one (Simple Copy-Paste is a
    Strong Data Augmentation Method, section 3)."""

    needs_masks = True

    def __init__(self, *, scale: Sequence[float] = (0.5, 1.0), p: float = 0.5, close_mosaic_epochs: int = 0):
        """The other image is taken at a random `scale`, 1 being where it just fits into this one."""
        super().__init__(p=p, close_mosaic_epochs=close_mosaic_epochs)
        self.scale = interval(scale, f"CopyPaste: scale={scale}")

    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        if target.masks is None:
            raise ValueError(
                "augmentation CopyPaste cuts objects out along their masks, which this task does not read; leave it "
                "out, or train with task=instance_segmentation"
            )
        generator = around.generator
        other, found = fitted(around.another(), image.shape[:2], generator.uniform(*self.scale))
        assert found.masks is not None
        usable = np.array([bool(mask.bitmap.size) for mask in found.masks], bool) & ~found.is_crowd
        rows = np.flatnonzero(usable)
        if not len(rows):
            return image, target
        rows = np.sort(generator.choice(rows, int(generator.integers(1, len(rows) + 1)), replace=False))
        left, top, _, _ = random_window(image.shape[:2], other.shape[:2], generator)
        pasted = translate(selected(found, rows), left, top)
        assert pasted.masks is not None
        shape = np.zeros(image.shape[:2], bool)
        for mask in pasted.masks:
            height, width = mask.bitmap.shape
            shape[mask.top : mask.top + height, mask.left : mask.left + width] |= mask.bitmap > 0
        mixed = image.copy()
        inside = mixed[top : top + other.shape[0], left : left + other.shape[1]]
        np.copyto(inside, other, where=shape[top : top + other.shape[0], left : left + other.shape[1], None])
        return mixed, concatenate(occlude_by_mask(target, shape), [pasted])


def fitted(sample: Sample, size: tuple[int, int], scale: float) -> Sample:
    """The sample at `scale` times the size at which it just fits into `size` (height, width), and inside it."""
    image, target = sample
    zoom = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = zoomed(image.shape[:2], scale * zoom)
    return resized(image, target, (min(height, size[0]), min(width, size[1])))


def mean_colour(preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (3,): what becomes about zero when it is normalised."""
    return np.rint(np.array(preprocessing.mean) * 255).astype(np.uint8)


def check_no_class(target: Target, name: str) -> None:
    """Raises ValueError where the image as a whole has a class."""
    if target.class_id is not None:
        raise ValueError(
            f"augmentation {name} puts images of several classes together; for classification leave it out, and use "
            "task.mixup or task.cutmix"
        )
