"""`Annotations`: all objects of one split in a few flat arrays, in the data set's own ids and values.

Legend:
    I  images        M  objects of all images, grouped by image        K  classes
"""

import os
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from tasks.data.annotations.masks import decode_mask
from tasks.data.annotations.segmentations import Segmentations
from tasks.targets import Target

WRITTEN_AS = {
    "images": ("id", "image_id", ""),
    "annotations": ("", "id", ""),
    "categories": ("", "category_id", "id"),
}
"""Where the ids of images, annotations and categories are in COCO's images, annotations and categories."""


@dataclass
class Annotations:
    """One split's annotations. Flat arrays, because forked workers share them without copying, while
    millions of Python objects are copied into each worker as soon as their reference counts change."""

    class_names: list[str]
    """(K,) by label."""
    category_ids: np.ndarray
    """(K,) int64, ascending: the data set's own id of each label."""
    image_ids: np.ndarray
    """(I,) int64."""
    file_names: np.ndarray
    """(I,) bytes, UTF-8; `file_name(i)` decodes one."""
    sizes: np.ndarray
    """(I, 2) int32: (height, width) in pixels of the upright image."""
    offsets: np.ndarray
    """(I+1,) int64: image i owns objects `offsets[i]` … `offsets[i + 1]`."""
    ids: np.ndarray
    """(M,) int64: the data set's own id of each object."""
    labels: np.ndarray
    """(M,) int64 in 0 … K-1."""
    boxes: np.ndarray
    """(M, 4) float64 x, y, width, height (COCO's order), exactly as written in the file."""
    areas: np.ndarray
    """(M,) float64 in pixels, exactly as written in the file."""
    is_crowd: np.ndarray
    """(M,) bool."""
    segmentations: Segmentations | None = None
    """None where they were not asked for."""
    written_ids: dict[str, dict[int, str]] = field(default_factory=dict)
    """Of files whose ids are strings: by "images", "annotations" or "categories", what each id stands for."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """File of image `index`, relative to the split's image folder."""
        return os.fsdecode(self.file_names[index])

    @property
    def has_masks(self) -> bool:
        """Whether any object has a mask."""
        masks = self.segmentations
        return masks is not None and bool(masks.object_rings[-1] or masks.count_offsets[-1])

    def target(self, index: int) -> Target:
        """Image `index` as a training target, in pixels of the original image, boxes clipped to it."""
        objects = slice(self.offsets[index], self.offsets[index + 1])
        height, width = self.sizes[index].tolist()
        x, y, w, h = self.boxes[objects].T
        corners = np.stack([x, y, x + w, y + h], axis=1)
        return Target(
            image_id=int(self.image_ids[index]),
            original_size=(height, width),
            boxes=corners.clip(0, [width, height, width, height]).astype(np.float32),
            labels=self.labels[objects].astype(np.int64),
            is_crowd=self.is_crowd[objects].copy(),
            masks=None
            if self.segmentations is None
            else [
                decode_mask(self.segmentation(row), height, width)
                for row in range(objects.start, objects.stop)
            ],
        )

    def segmentation(self, index: int) -> list[list[float]] | dict[str, Any] | None:
        """Object `index`'s segmentation as COCO writes it: polygons or compressed RLE; None without one."""
        if self.segmentations is None:
            return None
        item = self.segmentations[index]
        if not isinstance(item, bytes):
            return item
        image = np.searchsorted(self.offsets, index, side="right") - 1
        return {"size": self.sizes[image].tolist(), "counts": item.decode()}

    def to_coco(self) -> dict[str, Any]:
        """The whole as COCO's JSON, with original ids; boxes and areas are the file's to the last bit."""
        category_ids = self.category_ids.tolist()
        image_ids = np.repeat(self.image_ids, np.diff(self.offsets)).tolist()
        images = [
            {"id": image_id, "file_name": os.fsdecode(name), "height": height, "width": width}
            for image_id, name, (height, width) in zip(
                self.image_ids.tolist(), self.file_names, self.sizes.tolist(), strict=True
            )
        ]
        annotations: list[dict[str, Any]] = [
            {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for annotation_id, image_id, label, box, area, crowd in zip(
                self.ids.tolist(),
                image_ids,
                self.labels.tolist(),
                self.boxes.tolist(),
                self.areas.tolist(),
                self.is_crowd.tolist(),
                strict=True,
            )
        ]
        if self.segmentations is not None:
            for index, annotation in enumerate(annotations):
                if (segmentation := self.segmentation(index)) is not None:
                    annotation["segmentation"] = segmentation
        categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(category_ids, self.class_names, strict=True)
        ]
        for kind, keys in WRITTEN_AS.items():
            if known := self.written_ids.get(kind):
                for records, key in zip((images, annotations, categories), keys, strict=True):
                    for record in records if key else ():
                        record[key] = known.get(record[key], record[key])
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def as_written(self, kind: str, number: int) -> int | str:
        """The id of an image, annotation or category (`kind` as in `written_ids`) as its file writes it."""
        return self.written_ids.get(kind, {}).get(number, number)

    def select(self, indices: np.ndarray) -> Self:
        """The annotations of these images alone, in this order."""
        counts = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        # Row r of the result stands r - offsets[i] behind the first object of its image i.
        objects = np.repeat(self.offsets[indices] - offsets[:-1], counts) + np.arange(offsets[-1])
        return replace(
            self,
            image_ids=self.image_ids[indices],
            file_names=self.file_names[indices],
            sizes=self.sizes[indices],
            offsets=offsets,
            ids=self.ids[objects],
            labels=self.labels[objects],
            boxes=self.boxes[objects],
            areas=self.areas[objects],
            is_crowd=self.is_crowd[objects],
            segmentations=None if self.segmentations is None else self.segmentations.select(objects),
        )
