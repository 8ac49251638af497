"""Counts of what was taken for what, kept where the predictions are and summed over ranks when read."""

import numpy as np
import torch
from torch import Tensor

from tasks.distributed import gathered
from tasks.metrics.coverage import check_each_once


class ConfusionMatrix:
    """K x K counts, true class by row and predicted class by column; exact whatever the number of ranks."""

    def __init__(self, num_classes: int, image_ids: np.ndarray) -> None:
        self.num_classes = num_classes
        self.image_ids = np.asarray(image_ids)
        self._counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._seen: list[np.ndarray] = []

    def update(self, truth: Tensor, predicted: Tensor, image_ids: Tensor) -> None:
        """Adds pairs, (P,) int64 each in 0 … K-1, that come from the images (B,) `image_ids`."""
        assert truth.shape == predicted.shape, (truth.shape, predicted.shape)
        for what, labels in (("the data set holds", truth), ("the model predicts", predicted)):
            low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"{what} label {low if low < 0 else high}, but with {self.num_classes} classes labels go from 0 to "
                    f"{self.num_classes - 1}: check that the class names belong to this data and model"
                )
        pairs = truth.long() * self.num_classes + predicted.long()
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self._counts = self._counts.to(counts.device) + counts.view_as(self._counts)
        self._seen.append(image_ids.cpu().numpy())

    def total(self) -> np.ndarray:
        """(K, K) int64 over all ranks, which call this together.

        Raises:
            ValueError: when an image of the data set was missed or seen more than once.
        """
        seen = np.concatenate([np.zeros(0, np.int64), *self._seen])
        every = gathered((self._counts.cpu().numpy(), seen))
        check_each_once(self.image_ids, np.concatenate([ids for _, ids in every]))
        return np.sum([counts for counts, _ in every], axis=0)


def shares(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """`counts` / `totals` as float64, nan where there is nothing to share."""
    counts, totals = counts.astype(np.float64), totals.astype(np.float64)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def mean_of_known(values: np.ndarray) -> float:
    """The mean without nan; nan when there is no other."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
