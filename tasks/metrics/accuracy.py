"""How often images are put into the right class: top-1, top-5, by class, and what was taken for what."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tasks.device_copies import fetch
from tasks.distributed import all_gather_objects
from tasks.metrics.confusion import ConfusionMatrix
from tasks.metrics.outcomes import mean_of_known, shares


class AccuracyMetric:
    """Accuracies over a whole data set, each image counted exactly once over all ranks."""

    def __init__(self, class_names: Sequence[str], image_ids: np.ndarray) -> None:
        """
        Args:
            class_names: K names, by label, all different.
            image_ids: (I,) int64, those of the data set.
        """
        self.class_names = list(class_names)
        self.image_ids = image_ids
        self.reset()

    def reset(self) -> None:
        """Forgets every image seen."""
        self._confusion = ConfusionMatrix(len(self.class_names), self.image_ids)
        self._in_top5 = 0

    def update(self, scores: Tensor, labels: Tensor, image_ids: Tensor) -> None:
        """Adds the images of one batch.

        Args:
            scores: (B, K) logits or probabilities; among equal ones the lower label goes first.
            labels: (B,) int64 in 0 … K-1.
            image_ids: (B,) int64.

        Raises:
            ValueError: when a score is nan or there are labels beyond the classes.
        """
        assert scores.shape == (len(labels), len(self.class_names)), scores.shape
        best = scores.argsort(dim=1, descending=True, stable=True)[:, :5]
        # Four small tensors: what is counted of them is counted on the CPU.
        is_nan, best, labels, image_ids = fetch(scores.isnan().any(), best, labels, image_ids)
        if is_nan:
            raise ValueError("the model predicts nan; it has diverged: lower the learning rate")
        self._confusion.update([labels], [best[:, 0]], image_ids)
        self._in_top5 += int((best == labels[:, None]).sum())

    def compute(self) -> dict[str, float]:
        """`top1`, `top5`, `mean_class_accuracy` and `accuracy/<class name>`, each in 0 … 1.

        A class without images has nan and no part in the mean.
        """
        matrix = self.confusion_matrix()
        by_class = shares(matrix.diagonal(), matrix.sum(axis=1))
        total = matrix.sum()
        numbers = {
            "top1": float(shares(matrix.trace(), total)),
            "top5": float(shares(np.asarray(sum(all_gather_objects(self._in_top5))), total)),
            "mean_class_accuracy": mean_of_known(by_class),
        }
        names = (f"accuracy/{name}" for name in self.class_names)
        return numbers | dict(zip(names, by_class.tolist(), strict=True))

    def confusion_matrix(self) -> np.ndarray:
        """(K, K) int64 counts: true class by row, predicted class by column. All ranks call it together."""
        return self._confusion.total()
