"""How well class maps agree: IoU by class and its mean, and pixel accuracy, over a whole data set."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tasks.metrics.confusion import ConfusionMatrix
from tasks.metrics.outcomes import PixelOutcomes, mean_of_known, shares


class IoUMetric:
    """Intersection over union from one confusion matrix over all pixels of all images, as Pascal VOC and
    Cityscapes have it; not a mean over images. Each image counts exactly once over all ranks."""

    def __init__(
        self, class_names: Sequence[str], image_ids: np.ndarray, *, ignore_label: int | None = 255
    ) -> None:
        """
        Args:
            class_names: K names, by label, all different.
            image_ids: (I,) int64, those of the data set.
            ignore_label: pixels that are truly this are left out; None leaves none out.
        """
        self.class_names = list(class_names)
        self.image_ids = image_ids
        self.ignore_label = ignore_label
        self.reset()

    def reset(self) -> None:
        """Forgets every image seen."""
        self._confusion = ConfusionMatrix(len(self.class_names), self.image_ids, by_image=True)

    def update(
        self, predicted: Tensor | Sequence[Tensor], truth: Tensor | Sequence[Tensor], image_ids: Tensor
    ) -> None:
        """Adds images, whose maps may be of different sizes. A device is waited for once.

        Args:
            predicted: (B, H, W) or B maps (H, W) of any integer type, in 0 … K-1.
            truth: the same, in 0 … K-1 or `ignore_label`.
            image_ids: (B,) int64.

        Raises:
            ValueError: when there are labels beyond the classes.
        """
        self._confusion.update(list(truth), list(predicted), image_ids, ignore_label=self.ignore_label)

    def compute(self) -> dict[str, float]:
        """`mean_iou`, `pixel_accuracy` and `iou/<class name>`, each in 0 … 1.

        A class that is neither there nor predicted anywhere has nan and no part in the mean.
        """
        matrix = self.confusion_matrix()
        right = matrix.diagonal()
        by_class = shares(right, matrix.sum(axis=0) + matrix.sum(axis=1) - right)
        numbers = {
            "mean_iou": mean_of_known(by_class),
            "pixel_accuracy": float(shares(matrix.trace(), matrix.sum())),
        }
        names = (f"iou/{name}" for name in self.class_names)
        return numbers | dict(zip(names, by_class.tolist(), strict=True))

    def confusion_matrix(self) -> np.ndarray:
        """(K, K) int64 pixels: true class by row, predicted class by column. All ranks call it together."""
        return self._confusion.total()

    def outcomes(self) -> PixelOutcomes:
        """What happened on each image, by ascending id. All ranks call it together."""
        return PixelOutcomes(*self._confusion.of_images(), class_names=self.class_names)
