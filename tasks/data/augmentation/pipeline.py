"""Training augmentation: albumentations' transforms and our own on an image and its `Target`, seeded per sample."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from tasks.data.annotations.masks import flip_mask, from_planes, mask_box, to_planes
from tasks.data.augmentation.geometry import MIN_SIDE, MIN_VISIBILITY, Sample
from tasks.preprocessing import Preprocessing
from tasks.targets import IGNORE_LABEL, Target

# Before albumentations is imported, here or by a config that names one of its transforms: importing it
# would otherwise ask the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

if TYPE_CHECKING:
    import albumentations as A


@dataclass
class TransformContext:
    """What a transform may ask for beside the image it is given."""

    generator: np.random.Generator
    """The only source of chance, so that a sample is the same whichever worker makes it."""
    preprocessing: Preprocessing
    """How the image will reach the network."""
    another: Callable[[], Sample]
    """Another image of the split, drawn at random, after the transforms that stand before this one."""
    epochs_left: int | None = None
    """Epochs after this one; None where that is unknown."""


class Transform(ABC):
    """A transform of our own: what albumentations lacks because it needs several images or the network's size."""

    needs_masks: ClassVar[bool] = False
    """Whether it cannot do without masks of the objects."""
    sets_size: ClassVar[bool] = False
    """Whether images come out at the size at which the network is to see them."""
    needs_whole_images: ClassVar[bool] = False
    """Whether it may show a part of an image larger than the whole would be."""

    def __init__(self, *, p: float = 1.0, close_mosaic_epochs: int = 0):
        """`p` is the share of images it is applied to; in the last `close_mosaic_epochs` it is applied to none."""
        if not 0 <= p <= 1 or close_mosaic_epochs < 0:
            raise ValueError(
                f"{type(self).__name__}: p={p} must be between 0 and 1, "
                f"close_mosaic_epochs={close_mosaic_epochs} at least 0"
            )
        self.p = p
        self.close_mosaic_epochs = close_mosaic_epochs

    def __call__(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        """The sample, or what `apply` makes of it."""
        if around.epochs_left is not None and around.epochs_left < self.close_mosaic_epochs:
            return image, target
        if around.generator.random() >= self.p:
            return image, target
        return self.apply(image, target, around)

    @abstractmethod
    def apply(self, image: np.ndarray, target: Target, around: TransformContext) -> Sample:
        """Another sample; keeps what tasks/data/augmentation/geometry.py promises. Changes nothing of itself:
        threads share it."""


class Augmentation:
    """Applies transforms in turn. Boxes end inside the image; those with too little left are dropped."""

    _steps: "list[Transform | Pipeline | float]"
    """What to do in turn: a transform of our own, a pipeline of albumentations, a flip with this probability."""

    def __init__(self, transforms: "Sequence[Transform | A.BasicTransform | A.BaseCompose]" = ()):
        self._steps = []
        if not transforms:
            return
        import albumentations as A  # a second of importing that a run without augmentation saves

        run: list[A.BasicTransform | A.BaseCompose] = []
        for transform in transforms:
            if not isinstance(transform, Transform | A.BasicTransform | A.BaseCompose):
                raise ValueError(
                    f"augmentation {transform!r:.60} is no transform; wanted albumentations transforms, such "
                    "as _target_: albumentations.HorizontalFlip"
                )
            # The flip, the most common transform by far, is done by hand in a fifth of the time.
            is_flip = type(transform) is A.HorizontalFlip
            if not is_flip and not isinstance(transform, Transform):
                run.append(transform)
                continue
            self._steps += [Pipeline(run)] if run else []
            self._steps.append(transform if isinstance(transform, Transform) else transform.p)
            run = []
        self._steps += [Pipeline(run)] if run else []

    def __len__(self) -> int:
        """Number of steps; none leaves images as they are."""
        return len(self._steps)

    def __bool__(self) -> bool:
        """Whether there is anything to apply."""
        return bool(self._steps)

    @property
    def needs_whole_images(self) -> bool:
        """Whether a transform may show a part of an image larger than the whole would be."""
        return any(not isinstance(step, float | int) and step.needs_whole_images for step in self._steps)

    @property
    def sets_size(self) -> bool:
        """Whether images come out at the size at which the network is to see them."""
        return any(isinstance(step, Transform) and step.sets_size for step in self._steps)

    @property
    def closes(self) -> bool:
        """Whether a transform stops some epochs before the end."""
        return any(isinstance(step, Transform) and step.close_mosaic_epochs > 0 for step in self._steps)

    def __call__(
        self,
        image: np.ndarray,
        target: Target,
        seed: Sequence[int],
        *,
        preprocessing: Preprocessing | None = None,
        draw: Callable[[np.random.Generator], Sample] | None = None,
        epochs_left: int | None = None,
    ) -> Sample:
        """Another uint8 (H', W', 3) and its target; the same for the same `seed`, say (run, epoch, index).

        `draw` gives any image of the split, where a transform wants several; without it, that is the image itself.
        """
        if not self:
            return image, target
        generator = np.random.default_rng(seed)

        def after(sample: Sample, steps: int) -> Sample:
            """The sample after the first so many steps."""
            for number, step in enumerate(self._steps[:steps]):
                if isinstance(step, float | int):
                    sample = flip(*sample) if generator.random() < step else sample
                elif isinstance(step, Pipeline):
                    pipeline = step.of_this_thread()
                    pipeline.set_random_seed(int(generator.integers(2**31)))
                    sample = apply(pipeline, *sample)
                else:
                    another = partial(another_after, number)
                    around = TransformContext(
                        generator, preprocessing or Preprocessing(), another, epochs_left
                    )
                    sample = step(*sample, around)
            return sample

        def another_after(steps: int) -> Sample:
            return after((image, target) if draw is None else draw(generator), steps)

        return after((image, target), len(self._steps))


class Pipeline:
    """Transforms of albumentations, which keep what they are at in themselves: each thread has its own copy."""

    def __init__(self, transforms: "list[A.BasicTransform | A.BaseCompose]"):
        self._original = compose(transforms)
        self.needs_whole_images = "bboxes" in self._original.processors
        self._copies = threading.local()

    def of_this_thread(self) -> "A.Compose":
        if not hasattr(self._copies, "pipeline"):
            self._copies.pipeline = deepcopy(self._original)
        return self._copies.pipeline

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copies": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _copies=threading.local())


def compose(transforms: "list[A.BasicTransform | A.BaseCompose]") -> "A.Compose":
    """One pipeline of these, which tells by `rows` which boxes are left; or, where all of them change
    colours alone, one that is not told of boxes."""
    import albumentations as A

    if not any("bboxes" in transform.available_keys for transform in transforms):
        return A.Compose(transforms)
    return A.Compose(
        transforms,
        bbox_params=A.BboxParams(
            format="pascal_voc",
            label_fields=["rows"],
            min_visibility=MIN_VISIBILITY,
            min_width=MIN_SIDE,
            min_height=MIN_SIDE,
            clip=True,
            filter_invalid_bboxes=True,
        ),
    )


def apply(pipeline: "A.Compose", image: np.ndarray, target: Target) -> tuple[np.ndarray, Target]:
    """Image and target after the pipeline."""
    if "bboxes" not in pipeline.processors:
        return checked(pipeline(image=image)["image"]), target
    rows = np.arange(len(target.boxes))
    maps: dict[str, Any] = {} if target.class_map is None else {"mask": target.class_map}
    fill_masks(pipeline, IGNORE_LABEL if maps else 0)
    if target.masks:
        maps["masks"] = to_planes(target.masks, *image.shape[:2])
    result = pipeline(image=image, bboxes=target.boxes.astype(np.float64), rows=rows, **maps)
    image = checked(result["image"])
    height, width = image.shape[:2]
    rows = np.asarray(result["rows"], np.int64)
    boxes = np.asarray(result["bboxes"], np.float64).reshape(-1, 4).clip(0, [width, height, width, height])
    masks = target.masks
    if masks:
        # What is left of an object may be smaller than what is left of its box, or nothing.
        had_one = np.array([bool(masks[row].bitmap.size) for row in rows], bool)
        masks = from_planes(result["masks"], rows.tolist())
        keep = np.array([bool(mask.bitmap.size) for mask in masks], bool) | ~had_one
        rows, boxes = rows[keep], boxes[keep]
        masks = [mask for mask, kept in zip(masks, keep, strict=True) if kept]
        for box, mask in zip(boxes, masks, strict=True):
            if mask.bitmap.size:
                own = mask_box(mask)
                box[:] = box.clip(own - 1, own + 1).clip(0, [width, height, width, height])
    return image, replace(
        target,
        boxes=boxes.astype(np.float32),
        labels=target.labels[rows],
        is_crowd=target.is_crowd[rows],
        masks=masks,
        class_map=result.get("mask"),
    )


def fill_masks(transform: "A.BasicTransform | A.BaseCompose", value: int) -> None:
    """Lets `transform` fill what it adds around masks with `value`: 0, or `IGNORE_LABEL` in class maps, where
    0 would be a class."""
    for inner in getattr(transform, "transforms", ()):
        fill_masks(inner, value)
    if getattr(transform, "fill_mask", None) in (0, IGNORE_LABEL):
        vars(transform)["fill_mask"] = value


def checked(image: Any) -> np.ndarray:
    """The image itself, or ValueError if transforms made it something else than uint8 RGB."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise ValueError(
            f"the augmentation turned an image into {type(image).__name__} of {image.dtype} and shape "
            f"{tuple(image.shape)}; wanted uint8 (height, width, 3): leave out normalising and converting to "
            "tensors, which the model and the loader do"
        )
    return image


def flip(image: np.ndarray, target: Target) -> tuple[np.ndarray, Target]:
    """Image, boxes, masks and class map mirrored left to right."""
    boxes = target.boxes.copy()
    boxes[:, [0, 2]] = image.shape[1] - target.boxes[:, [2, 0]]
    class_map = None if target.class_map is None else cv2.flip(target.class_map, 1)
    masks = target.masks and [flip_mask(mask, image.shape[1]) for mask in target.masks]
    return cv2.flip(image, 1), replace(target, boxes=boxes, masks=masks, class_map=class_map)
