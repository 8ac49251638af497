"""Training augmentation: albumentations' transforms on an image and its `Target`, seeded per sample."""

import os
import threading
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tasks.contracts import IGNORE_LABEL, Target
from tasks.data.object_masks import flip_mask, from_planes, mask_box, resize_mask, to_planes

# Before albumentations is imported, here or by a config that names one of its transforms: importing it
# would otherwise ask the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

if TYPE_CHECKING:
    import albumentations as A

MIN_VISIBILITY = 0.1
"""An object goes when a transform leaves less than this share of its box inside the image."""
MIN_SIDE = 1.0
"""... or a box narrower or lower than this, in pixels."""


class Augmentation:
    """Applies transforms in turn. Boxes end inside the image; those with too little left are dropped."""

    _steps: "list[Pipeline | float]"
    """What to do in turn: a pipeline of albumentations, or a flip with this probability."""

    def __init__(self, transforms: "Sequence[A.BasicTransform | A.BaseCompose]" = ()):
        self._steps = []
        if not transforms:
            return
        import albumentations as A  # a second of importing that a run without augmentation saves

        run: list[A.BasicTransform | A.BaseCompose] = []
        for transform in transforms:
            if not isinstance(transform, A.BasicTransform | A.BaseCompose):
                raise ValueError(
                    f"augmentation {transform!r:.60} is no transform; wanted albumentations transforms, such "
                    "as _target_: albumentations.HorizontalFlip"
                )
            if type(transform) is A.HorizontalFlip:
                # The most common transform by far, done by hand in a fifth of the time.
                self._steps += [Pipeline(run), transform.p] if run else [transform.p]
                run = []
            else:
                run.append(transform)
        if run:
            self._steps.append(Pipeline(run))

    def __len__(self) -> int:
        """Number of steps; none leaves images as they are."""
        return len(self._steps)

    @property
    def needs_whole_images(self) -> bool:
        """Whether a transform may show a part of an image larger than the whole would be."""
        return any(isinstance(step, Pipeline) and step.moves_boxes for step in self._steps)

    def __bool__(self) -> bool:
        """Whether there is anything to apply."""
        return bool(self._steps)

    def __call__(self, image: np.ndarray, target: Target, seed: Sequence[int]) -> tuple[np.ndarray, Target]:
        """Another uint8 (H', W', 3) and its target; the same for the same `seed`, say (run, epoch, index)."""
        if not self:
            return image, target
        generator = np.random.default_rng(seed)
        for step in self._steps:
            if isinstance(step, float | int):
                if generator.random() < step:
                    image, target = flip(image, target)
            else:
                pipeline = step.of_this_thread()
                pipeline.set_random_seed(int(generator.integers(2**31)))
                image, target = apply(pipeline, image, target)
        return image, target


class Pipeline:
    """Transforms of albumentations, which keep what they are at in themselves: each thread has its own copy."""

    def __init__(self, transforms: "list[A.BasicTransform | A.BaseCompose]"):
        self._original = compose(transforms)
        self.moves_boxes = "bboxes" in self._original.processors
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


def scale_boxes(target: Target, size: tuple[int, int], new_size: tuple[int, int]) -> Target:
    """The target after its image was resized from `size` to `new_size`, both (height, width)."""
    if size == new_size:
        return target
    vertical, horizontal = new_size[0] / size[0], new_size[1] / size[1]
    scale = np.array([horizontal, vertical, horizontal, vertical], np.float32)
    return replace(
        target,
        boxes=target.boxes * scale,
        masks=target.masks and [resize_mask(mask, size, new_size) for mask in target.masks],
        class_map=resize_class_map(target.class_map, new_size),
    )


def resize_class_map(class_map: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    """The class map at `size` (height, width): each pixel takes the class of the nearest one."""
    if class_map is None:
        return None
    # INTER_NEAREST looks up to half a pixel beside where the bilinear resizing of the image looks.
    return cv2.resize(class_map, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
