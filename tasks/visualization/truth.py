"""What is annotated in an image, drawn on it, whatever the kind of annotations."""

from typing import Any

import numpy as np

from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.visualization.bars import draw_best
from tasks.visualization.boxes import RIGHT_COLOR, WRONG_COLOR, class_color, draw_detections
from tasks.visualization.class_maps import draw_class_map
from tasks.visualization.targets import tint


def draw_truth(image: np.ndarray, annotations: Any, index: int) -> np.ndarray | None:
    """`image` (uint8 (H, W, 3)) of place `index` with its boxes and masks, its class map or its class; crowds dotted.

    None for annotations of another kind.
    """
    names = list(annotations.class_names)
    if isinstance(annotations, ClassMaps):
        return draw_class_map(image, annotations.read(index), names)
    if isinstance(annotations, ImageLabels):
        label = int(annotations.labels[index])
        return draw_best(image, [f"labelled {names[label]}"], np.array([label]), np.ones(1))
    if not isinstance(annotations, Annotations):
        return None
    target = annotations.target(index)
    nothing = np.zeros(0)
    if target.masks is not None:
        image = image.copy()
        for (left, top, bitmap), label in zip(target.masks, target.labels.tolist(), strict=True):
            area = image[top : top + bitmap.shape[0], left : left + bitmap.shape[1]]
            tint(area, bitmap.astype(bool), class_color(label))
    return draw_detections(
        image, np.zeros((0, 4)), nothing, nothing, names,
        gt_boxes=target.boxes, gt_labels=target.labels, gt_is_crowd=target.is_crowd,
    )  # fmt: skip


def marked(picture: np.ndarray, is_right: bool) -> np.ndarray:
    """`picture` in a frame of green, or of red where it is wrong."""
    framed = np.empty((picture.shape[0] + 12, picture.shape[1] + 12, 3), np.uint8)
    framed[:] = RIGHT_COLOR if is_right else WRONG_COLOR
    framed[6:-6, 6:-6] = picture
    return framed


def beside(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The two as one picture: the truth on the left or, where images are wide, above."""
    is_wide = truth.shape[1] > 1.4 * truth.shape[0]
    axis = 0 if is_wide else 1
    size = max(truth.shape[1 - axis], found.shape[1 - axis])
    gap_shape = (4, size, 3) if is_wide else (size, 4, 3)
    padded = []
    for image in (truth, found):
        room = size - image.shape[1 - axis]
        padded.append(np.pad(image, ((0, 0), (0, room), (0, 0)) if is_wide else ((0, room), (0, 0), (0, 0))))
    return np.concatenate([padded[0], np.full(gap_shape, 255, np.uint8), padded[1]], axis=axis)
