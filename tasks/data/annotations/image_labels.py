"""`ImageLabels`: the class of every image of one split in a few flat arrays.

Legend:
    I  images        K  classes
"""

import os
from dataclasses import dataclass
from typing import Self

import numpy as np

from tasks.targets import Target


@dataclass
class ImageLabels:
    """One split's classes: what `Annotations` is to objects in images, for images that show one thing."""

    class_names: list[str]
    """(K,) by label."""
    category_ids: np.ndarray
    """(K,) int64, ascending: the data set's own id of each label."""
    image_ids: np.ndarray
    """(I,) int64."""
    labels: np.ndarray
    """(I,) int64 in 0 … K-1."""
    file_names: np.ndarray
    """(I,) bytes, UTF-8; `file_name(i)` decodes one."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """File of image `index`, relative to the split's folder, or what else tells it from the others."""
        return os.fsdecode(self.file_names[index])

    def target(self, index: int) -> Target:
        """Image `index` as a training target; `original_size` stays (0, 0) until it is decoded."""
        return Target(
            image_id=int(self.image_ids[index]),
            original_size=(0, 0),
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
            is_crowd=np.zeros(0, bool),
            class_id=int(self.labels[index]),
        )

    def select(self, indices: np.ndarray) -> Self:
        """The images at these positions alone, in this order."""
        return type(self)(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=self.image_ids[indices],
            labels=self.labels[indices],
            file_names=self.file_names[indices],
        )
