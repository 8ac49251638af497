"""Agreement of class maps with the truth over a data set, in original pixels, and its tables as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from tasks.contracts import Batch
from tasks.device_copies import send
from tasks.files import write_csv
from tasks.metrics.iou import IoUMetric
from tasks.metrics.outcomes import PixelOutcomes, shares
from tasks.targets import IGNORE_LABEL

if TYPE_CHECKING:
    from tasks.data.annotations.class_maps import ClassMaps


class SemanticSegmentationMetric:
    """`IoUMetric` against the class maps as they are stored, which it reads one by one: it holds K x K
    counts and no map, however many images there are."""

    def __init__(self, annotations: ClassMaps) -> None:
        self.annotations = annotations
        self.iou = IoUMetric(annotations.class_names, annotations.image_ids, ignore_label=IGNORE_LABEL)
        self._rows = {image_id: row for row, image_id in enumerate(annotations.image_ids.tolist())}
        self.reset()

    def reset(self) -> None:
        """Forgets every image seen."""
        self.iou.reset()
        self._confusion: np.ndarray | None = None
        self._outcomes: PixelOutcomes | None = None

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Adds class maps, uint8 (height, width) in original pixels, of the images of one batch."""
        truth = [
            send(self.annotations.read(self._rows[image_id]), class_map.device)
            for class_map, image_id in zip(predictions, batch.image_ids.tolist(), strict=True)
        ]
        self.iou.update(predictions, truth, batch.image_ids)
        self._confusion = self._outcomes = None

    def compute(self) -> dict[str, float]:
        """`mean_iou`, `pixel_accuracy` and `iou/<class name>`, each in 0 … 1.

        Raises:
            ValueError: unless every image of the annotations was seen exactly once, over all ranks.
        """
        numbers = self.iou.compute()
        self._confusion = self.iou.confusion_matrix()
        self._outcomes = self.iou.outcomes()
        return numbers

    def outcomes(self) -> PixelOutcomes:
        """What happened on each image, for intervals and comparisons; after `compute`."""
        return self.iou.outcomes() if self._outcomes is None else self._outcomes

    def confusion_matrix(self) -> np.ndarray:
        """int64 (K, K): pixels, a row for each true class; after `compute` on all ranks, also on one of them."""
        return self.iou.confusion_matrix() if self._confusion is None else self._confusion

    def write_results(self, folder: Path) -> None:
        """`iou.csv`, a row for each class, and `confusion.csv`, pixels with a row for each true class.

        In a distributed run call this on one rank, after `compute` on all.
        """
        matrix = self.confusion_matrix()
        names = self.annotations.class_names
        right, true, found = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        columns = (shares(right, true + found - right), shares(right, true), shares(right, found), true)
        write_csv(
            folder / "iou.csv",
            ["class", "iou", "recall", "precision", "pixels"],
            zip(names, *(column.tolist() for column in columns), strict=True),
        )
        rows = ([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
        write_csv(folder / "confusion.csv", ["true class", *names], rows)
