"""`ResultsMetric`: COCO's numbers of detections that are known all at once, as those of a file are."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from tasks.metrics.average_precision import Predictions, RunLengths
from tasks.metrics.coco import Annotations, CocoMetric, MaskAnnotations


class ResultsMetric(CocoMetric):
    """A `CocoMetric` that has seen every image. Boxes and scores keep all their digits, so that its numbers are
    pycocotools' on the file; the area of a mask is its own, also where the file has a box as well."""

    def __init__(
        self,
        annotations: Annotations | MaskAnnotations,
        images: np.ndarray,
        labels: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        masks: Sequence[bytes] | None = None,
        *,
        backend: str = "auto",
    ) -> None:
        """
        Args:
            annotations: the truth; with masks where `masks` are to be scored.
            images: (N,) int64, places of images in `annotations`.
            labels: (N,) int64 in 0 … K-1.
            boxes: (N, 4) float64 xywh.
            scores: (N,) float64.
            masks: N compressed run lengths, or None.
            backend: as for `CocoMetric`.
        """
        super().__init__(annotations, masks=masks is not None, backend=backend)
        order_of_images = np.argsort(annotations.image_ids).argsort()
        order_of_categories = np.argsort(annotations.category_ids).argsort()
        order = np.argsort(order_of_images[images], kind="stable")
        run_lengths = None
        if masks is not None:
            counts = np.empty(len(masks), object)
            counts[:] = masks
            sizes = np.asarray(cast(MaskAnnotations, annotations).sizes)
            of_images = sizes[np.argsort(annotations.image_ids)].tolist()
            run_lengths = RunLengths(counts[order], order_of_images[images][order], of_images)
        self._predictions = Predictions(
            order_of_images[images][order],
            order_of_categories[labels][order],
            boxes[order],
            scores[order],
            run_lengths,
        )

    def _found(self, *, masks: bool) -> Predictions:
        found = self._predictions
        return found if masks else Predictions(found.images, found.categories, found.boxes, found.scores)
