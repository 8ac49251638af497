"""The targets of a batch drawn on its images, as training will see them."""

import numpy as np

from tasks.contracts import Batch
from tasks.targets import IGNORE_LABEL
from tasks.visualization.boxes import class_color, draw_detections

OPACITY = 0.45


def draw_target(batch: Batch, index: int, class_names: list[str]) -> np.ndarray:
    """Image `index` of the batch without its padding, what is known of it drawn on it: boxes in dashes with names,
    masks and pixels in the colours of their classes, pixels of unknown class in white."""
    height, width = batch.sizes[index].tolist()
    image = batch.images[index, :, :height, :width].permute(1, 2, 0).numpy().copy()
    boxes, labels = batch.boxes[index].numpy(), batch.labels[index].numpy()
    if batch.mask_places is not None and batch.mask_pixels is not None:
        pixels = batch.mask_pixels.numpy()
        for (start, left, top, w, h), label in zip(batch.mask_places[index].tolist(), labels, strict=True):
            inside = pixels[start : start + w * h].reshape(h, w) > 0
            tint(image[top : top + h, left : left + w], inside, class_color(int(label)))
    if batch.class_maps is not None:
        class_map = batch.class_maps[index, :height, :width].numpy()
        for label in np.unique(class_map).tolist():
            tint(image, class_map == label, (255, 255, 255) if label == IGNORE_LABEL else class_color(label))
    if batch.class_ids is not None:
        boxes, labels = np.array([[0, 0, width, height]]), batch.class_ids[index : index + 1].numpy()
    nothing = np.zeros((0, 4))
    return draw_detections(
        image, nothing, nothing[:, 0], nothing[:, 0], class_names, gt_boxes=boxes, gt_labels=labels
    )


def tint(area: np.ndarray, inside: np.ndarray, color: tuple[int, int, int]) -> None:
    """Mixes `color` into the pixels of `area` (h, w, 3), in place, where `inside` (h, w) is true."""
    area[inside] = ((1 - OPACITY) * area[inside] + OPACITY * np.array(color)).astype(np.uint8)
