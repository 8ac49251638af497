"""`ClassMaps`: a class for every pixel of the images of one split, and class maps painted from object masks.

Legend:
    I  images        K  classes        M  objects of all images
    class map  uint8 (H, W): the class of each pixel, 0 … K-1 or `IGNORE_LABEL`
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.objects import Annotations
from tasks.targets import IGNORE_LABEL, Target

BACKGROUND = "background"
"""Name of class 0 where class maps are painted from objects: what belongs to none of them."""


@dataclass
class ClassMaps:
    """One split's class maps: what `Annotations` is to objects, for pixels. None stays in memory."""

    class_names: list[str]
    """(K,) by label."""
    category_ids: np.ndarray
    """(K,) int64, ascending: the data set's own number of each label."""
    image_ids: np.ndarray
    """(I,) int64."""
    file_names: np.ndarray
    """(I,) bytes, UTF-8; `file_name(i)` decodes one."""
    read: Callable[[int], np.ndarray]
    """Class map of image i, in pixels of the original image, read or painted anew at each call."""

    def __post_init__(self) -> None:
        if len(self.class_names) > IGNORE_LABEL:
            raise ValueError(
                f"the data has {len(self.class_names)} classes; a class map, of one byte a pixel, holds at most "
                f"{IGNORE_LABEL}: leave out the rarest"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """File of image `index`, relative to the split's image folder."""
        return os.fsdecode(self.file_names[index])

    def target(self, index: int) -> Target:
        """Image `index` as a training target."""
        class_map = self.read(index)
        height, width = class_map.shape
        return Target(
            image_id=int(self.image_ids[index]),
            original_size=(height, width),
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
            is_crowd=np.zeros(0, bool),
            class_map=class_map,
        )

    def select(self, indices: np.ndarray) -> "ClassMaps":
        """The images at these positions alone, in this order."""
        return replace(
            self,
            image_ids=self.image_ids[indices],
            file_names=self.file_names[indices],
            read=partial(_read_at, self.read, indices),
        )


def _read_at(read: Callable[[int], np.ndarray], indices: np.ndarray, index: int) -> np.ndarray:
    return read(int(indices[index]))


def paint(annotations: Annotations, index: int) -> np.ndarray:
    """The class map of image `index`: label k + 1 where an object of class k is, 0 where none is.

    Painted in this order, each over those before:
        crowds, in `IGNORE_LABEL`: some of their pixels are between the objects;
        objects without a mask, their boxes in `IGNORE_LABEL`;
        all others from the largest mask to the smallest, so that what lies on something larger stays to be
        seen; equally large ones in the order of the file.
    """
    start, stop = annotations.offsets[index : index + 2].tolist()
    height, width = annotations.sizes[index].tolist()
    class_map = np.zeros((height, width), np.uint8)
    known: list[tuple[int, int, Any]] = []  # area, object, mask as RLE
    for row in range(start, stop):
        segmentation = annotations.segmentation(row)
        if segmentation is None:
            x, y, w, h = annotations.boxes[row]
            rows = slice(max(0, int(y)), max(0, int(np.ceil(y + h))))
            class_map[rows, max(0, int(x)) : max(0, int(np.ceil(x + w)))] = IGNORE_LABEL
            continue
        rle = to_rle(segmentation, height, width)
        if annotations.is_crowd[row]:
            class_map[coco_mask.decode(rle) > 0] = IGNORE_LABEL
        else:
            known.append((int(coco_mask.area(rle)), row, rle))
    for _, row, rle in sorted(known, key=lambda item: (-item[0], item[1])):
        class_map[coco_mask.decode(rle) > 0] = annotations.labels[row] + 1
    return class_map


def to_rle(segmentation: Any, height: int, width: int) -> Any:
    """Polygons, or run lengths as they are, as one mask of COCO's compressed run lengths."""
    if isinstance(segmentation, dict):
        return segmentation
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))


def with_background(category_ids: np.ndarray) -> np.ndarray:
    """(K + 1,) ids, ascending, with one for the background in front."""
    return np.concatenate([category_ids[:1] - 1, category_ids])
