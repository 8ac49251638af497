"""Masks, boxes, names and scores on a picture."""

from collections.abc import Sequence

import numpy as np

from tasks.targets import ObjectMask
from tasks.visualization.boxes import class_color, draw_detections

MASK_OPACITY = 0.45


def draw_instances(
    image: np.ndarray,
    masks: Sequence[ObjectMask],
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
) -> np.ndarray:
    """`image` (uint8 (H, W, 3)) with the N `masks` in the colours of their classes, the best on top, below
    boxes (N, 4) with names and scores (N,)."""
    tinted = image.copy()
    for row in np.argsort(scores, kind="stable"):
        left, top, bitmap = masks[row]
        area = tinted[top : top + bitmap.shape[0], left : left + bitmap.shape[1]]
        inside = bitmap.astype(bool)
        color = np.array(class_color(int(labels[row])), np.float32)
        area[inside] = ((1 - MASK_OPACITY) * area[inside] + MASK_OPACITY * color).astype(np.uint8)
    return draw_detections(tinted, boxes, labels, scores, class_names, score_threshold=0.0)
