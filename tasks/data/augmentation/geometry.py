"""Images with their objects cut out, resized, covered and put together: what augmentation is made of.

Whatever is done, an object's box ends inside the image; an object of which too little is left is gone; and the
rectangle around an object's mask lies within a pixel of its box. Nothing given is changed.

Legend, beside that of tasks/contracts.py:
    window  (left, top, right, bottom) in whole pixels, the last two outside
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from tasks.data.annotations.masks import cropped, mask_box, resize_mask
from tasks.targets import ObjectMask, Target

MIN_VISIBILITY = 0.1
"""An object goes when a transform leaves less than this share of its box, or of its mask, to be seen."""
MIN_SIDE = 1.0
"""... or a box narrower or lower than this, in pixels."""

Window = tuple[int, int, int, int]
Sample = tuple[np.ndarray, Target]
"""uint8 (H, W, 3) RGB and its target, in pixels of it."""


def crop(image: np.ndarray, target: Target, window: Window) -> Sample:
    """The part of the image in `window`, which lies inside it."""
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    moved = target.boxes.astype(np.float64) - [left, top, left, top]
    boxes = moved.clip(0, [width, height, width, height])
    masks = None
    if target.masks is not None:
        masks = [move_mask(crop_mask(mask, window), -left, -top) for mask in target.masks]
    class_map = target.class_map
    part = replace(
        target,
        boxes=boxes,
        masks=masks,
        class_map=None if class_map is None else class_map[top:bottom, left:right],
    )
    return image[top:bottom, left:right], keep_visible(
        part, target, areas(boxes) >= MIN_VISIBILITY * areas(moved)
    )


def resized(image: np.ndarray, target: Target, size: tuple[int, int]) -> Sample:
    """The image at `size` (height, width), bilinear as the preprocessing resizes."""
    if image.shape[:2] == size:
        return image, target
    scaled = scale_boxes(target, image.shape[:2], size)
    resized_image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized_image, keep_visible(scaled, target, np.ones(len(target.boxes), bool))


def translate(target: Target, right: int, down: int) -> Target:
    """The target of an image that stands so many pixels further in a larger one. Has no class map."""
    masks = target.masks and [move_mask(mask, right, down) for mask in target.masks]
    boxes = target.boxes + np.array([right, down, right, down], np.float32)
    return replace(target, boxes=boxes, masks=masks, class_map=None)


def concatenate(target: Target, others: Sequence[Target]) -> Target:
    """`target` with the objects of `others` behind its own, all in pixels of one image."""
    everyone = [target, *others]
    masks = None
    if target.masks is not None:
        masks = [mask for one in everyone for mask in one.masks or ()]
    return replace(
        target,
        boxes=np.concatenate([one.boxes for one in everyone]).astype(np.float32),
        labels=np.concatenate([one.labels for one in everyone]),
        is_crowd=np.concatenate([one.is_crowd for one in everyone]),
        masks=masks,
    )


def selected(target: Target, rows: np.ndarray) -> Target:
    """The objects at these rows, or where this is true, alone."""
    numbers = np.arange(len(target.boxes))[rows]
    return replace(
        target,
        boxes=target.boxes[rows],
        labels=target.labels[rows],
        is_crowd=target.is_crowd[rows],
        masks=None if target.masks is None else [target.masks[number] for number in numbers],
    )


def occlude(target: Target, window: Window) -> Target:
    """What is to be seen of the objects once `window` shows something else."""
    boxes, (left, top, right, bottom) = target.boxes.astype(np.float64), window
    x1, y1, x2, y2 = boxes.T
    # A box loses a side where the window reaches over the whole of it; a hole or a corner changes no box.
    is_high, is_wide = (top <= y1) & (y2 <= bottom), (left <= x1) & (x2 <= right)
    new_x1, new_x2 = without_ends(x1, x2, left, right, is_high)
    new_y1, new_y2 = without_ends(y1, y2, top, bottom, is_wide)
    hidden = areas(
        np.stack(
            [x1.clip(left, right), y1.clip(top, bottom), x2.clip(left, right), y2.clip(top, bottom)], axis=1
        )
    )
    keep = areas(boxes) - hidden >= MIN_VISIBILITY * areas(boxes)
    masks = None if target.masks is None else [without_window(mask, window) for mask in target.masks]
    rest = replace(target, boxes=np.stack([new_x1, new_y1, new_x2, new_y2], axis=1), masks=masks)
    return keep_visible(rest, target, keep & enough_of_masks(rest, target))


def without_ends(
    low: np.ndarray, high: np.ndarray, start: int, stop: int, where: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals from `low` to `high` less the end, or both, that lie between `start` and `stop`, as far as
    `where` is true; `low` comes out above `high` where nothing is left."""
    new_low = np.where(where & (start <= low) & (low < stop), np.minimum(stop, high), low)
    new_high = np.where(where & (start < high) & (high <= stop), np.maximum(start, low), high)
    return new_low, new_high


def occlude_by_mask(target: Target, shape: np.ndarray) -> Target:
    """What is to be seen of the objects, all of which have masks, once the pixels where `shape` (bool (H, W)) is
    true show something else."""
    assert target.masks is not None
    masks = []
    for mask in target.masks:
        height, width = mask.bitmap.shape
        over = shape[mask.top : mask.top + height, mask.left : mask.left + width]
        masks.append(cropped(mask.bitmap * ~over, mask.left, mask.top) if over.any() else mask)
    rest = replace(target, masks=masks)
    return keep_visible(rest, target, enough_of_masks(rest, target))


def enough_of_masks(target: Target, before: Target) -> np.ndarray:
    """(N,) bool: whether enough is left of the mask that each object had in `before`; true where it had none."""
    if target.masks is None or before.masks is None:
        return np.ones(len(target.boxes), bool)
    pairs = zip(target.masks, before.masks, strict=True)
    return np.array(
        [mask is old or mask.bitmap.sum() >= MIN_VISIBILITY * old.bitmap.sum() for mask, old in pairs], bool
    )


def keep_visible(target: Target, before: Target, keep: np.ndarray) -> Target:
    """The objects of `target` where `keep` is true, unless their boxes are too small or nothing is left of the
    mask they had in `before`, row by row the same objects; boxes within a pixel of their masks."""
    boxes = target.boxes.astype(np.float64)
    keep = keep & (boxes[:, 2] - boxes[:, 0] >= MIN_SIDE) & (boxes[:, 3] - boxes[:, 1] >= MIN_SIDE)
    if target.masks is not None:
        assert before.masks is not None
        for row, (mask, old) in enumerate(zip(target.masks, before.masks, strict=True)):
            if mask.bitmap.size:
                own = mask_box(mask)
                boxes[row] = boxes[row].clip(own - 1, own + 1)
            elif old.bitmap.size:
                keep[row] = False
    return selected(replace(target, boxes=boxes.astype(np.float32)), keep)


def areas(boxes: np.ndarray) -> np.ndarray:
    """(…) areas of boxes (…, 4); 0 for what has none."""
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)


def crop_mask(mask: ObjectMask, window: Window) -> ObjectMask:
    """The part of the mask in `window`, in pixels of the whole image."""
    left, top, right, bottom = window
    height, width = mask.bitmap.shape
    x, y = max(0, left - mask.left), max(0, top - mask.top)
    x_end, y_end = min(width, right - mask.left), min(height, bottom - mask.top)
    if (x, y, x_end, y_end) == (0, 0, width, height):
        return mask
    return cropped(mask.bitmap[y : max(y, y_end), x : max(x, x_end)], mask.left + x, mask.top + y)


def without_window(mask: ObjectMask, window: Window) -> ObjectMask:
    """The mask without what lies in `window`."""
    left, top, right, bottom = window
    height, width = mask.bitmap.shape
    rows = slice(max(0, top - mask.top), max(0, min(height, bottom - mask.top)))
    columns = slice(max(0, left - mask.left), max(0, min(width, right - mask.left)))
    if not mask.bitmap[rows, columns].any():
        return mask
    bitmap = mask.bitmap.copy()
    bitmap[rows, columns] = 0
    return cropped(bitmap, mask.left, mask.top)


def move_mask(mask: ObjectMask, right: int, down: int) -> ObjectMask:
    """The mask so many pixels further; one that is unknown stays as it is."""
    return ObjectMask(mask.left + right, mask.top + down, mask.bitmap) if mask.bitmap.size else mask


def scale_boxes(target: Target, size: tuple[int, int], new_size: tuple[int, int]) -> Target:
    """The target after its image was resized from `size` to `new_size`, both (height, width)."""
    if size == new_size:
        return target
    vertical, horizontal = new_size[0] / size[0], new_size[1] / size[1]
    scale = np.array([horizontal, vertical, horizontal, vertical], np.float32)
    limits = np.array([new_size[1], new_size[0], new_size[1], new_size[0]], np.float32)
    return replace(
        target,
        boxes=np.minimum(target.boxes * scale, limits),  # rounding must not carry a box over the border
        masks=target.masks and [resize_mask(mask, size, new_size) for mask in target.masks],
        class_map=resize_class_map(target.class_map, new_size),
    )


def resize_class_map(class_map: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    """The class map at `size` (height, width): each pixel takes the class of the nearest one."""
    if class_map is None:
        return None
    # INTER_NEAREST looks up to half a pixel beside where the bilinear resizing of the image looks.
    return cv2.resize(class_map, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
