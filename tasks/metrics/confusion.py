"""Counts of what was taken for what, kept where the predictions are and summed over ranks when read."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.device_copies import fetch
from tasks.distributed import all_gather_objects
from tasks.metrics.coverage import check_every_image_once


class ConfusionMatrix:
    """K x K counts, true class by row and predicted class by column; exact whatever the number of ranks."""

    def __init__(self, num_classes: int, image_ids: np.ndarray, *, by_image: bool = False) -> None:
        """With `by_image` each map is that of one image, and `of_images` knows the counts of each."""
        self.num_classes = num_classes
        self.image_ids = np.asarray(image_ids)
        self.by_image = by_image
        self._by_image: list[Tensor] = []  # (3, K) each: right, true and found
        self._counts: Tensor | None = None  # on the device of the first labels
        self._seen: list[np.ndarray] = []

    def update(
        self,
        truth: Sequence[Tensor],
        predicted: Sequence[Tensor],
        image_ids: Tensor,
        *,
        ignore_label: int | None = None,
    ) -> None:
        """Adds pairs from the images (B,) `image_ids`: labels in 0 … K-1 of any integer type, several tensors of
        them, each with one of the same shape. What is truly `ignore_label` is left out. A device is waited for once.

        Raises:
            ValueError: when there are labels beyond the classes; nothing is added then.
        """
        maps = list(zip(truth, predicted, strict=True))
        for true, found in maps:
            assert true.shape == found.shape, (true.shape, found.shape)
        seen = self._check([pair for pair in maps if pair[0].numel()], image_ids, ignore_label)
        for true, found in maps:
            pairs = true.flatten().long() * self.num_classes + found.flatten()
            if ignore_label is not None:
                pairs = pairs.where(true.flatten() != ignore_label, self.num_classes**2)
            counts = self._count(pairs)
            if self.by_image:
                self._by_image.append(torch.stack([counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)]))
            self._counts = counts if self._counts is None else self._counts.to(counts.device) + counts
        self._seen.append(seen)

    def _check(
        self, maps: Sequence[tuple[Tensor, Tensor]], image_ids: Tensor, ignore_label: int | None
    ) -> np.ndarray:
        """`image_ids` on the CPU, or ValueError where the `maps` of them have labels beyond the classes."""
        extremes = []
        for true, found in maps:
            if ignore_label is not None:  # stands for any class
                true, found = (labels.where(true != ignore_label, 0) for labels in (true, found))
            extremes.append(torch.stack([edge.long() for edge in (*true.aminmax(), *found.aminmax())]))
        ids, *found_extremes = fetch(image_ids, *extremes)
        for true_low, true_high, low, high in (row.tolist() for row in found_extremes):
            self._check_range("the data set holds", true_low, true_high)
            self._check_range("the model predicts", low, high)
        return ids.numpy()

    def _check_range(self, what: str, low: int, high: int) -> None:
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"{what} label {low if low < 0 else high}, but with {self.num_classes} classes labels go from 0 to "
                f"{self.num_classes - 1}: check that the class names belong to this data and model"
            )

    def _count(self, pairs: Tensor) -> Tensor:
        """int64 (K, K): how often each of 0 … K * K - 1 is in `pairs`; K * K is not counted."""
        size = self.num_classes**2
        if pairs.device.type == "cpu":
            counts = torch.bincount(pairs, minlength=size + 1)
        else:  # which bincount would wait for
            counts = pairs.new_zeros(size + 1).scatter_add_(0, pairs, torch.ones_like(pairs))
        return counts[:size].view(self.num_classes, self.num_classes)

    def total(self) -> np.ndarray:
        """(K, K) int64 over all ranks, which call this together.

        Raises:
            ValueError: when an image of the data set was missed or seen more than once.
        """
        seen = np.concatenate([np.zeros(0, np.int64), *self._seen])
        counts = np.zeros((self.num_classes,) * 2, np.int64)
        every = all_gather_objects((counts if self._counts is None else self._counts.cpu().numpy(), seen))
        check_every_image_once(self.image_ids, np.concatenate([ids for _, ids in every]))
        return np.sum([counts for counts, _ in every], axis=0)

    def of_images(self) -> np.ndarray:
        """(3, I, K) int64 over all ranks, images by ascending id: of each class what is right, true and found."""
        assert self.by_image
        seen = np.concatenate([np.zeros(0, np.int64), *self._seen])
        shape = (len(seen), 3, self.num_classes)
        mine = torch.stack(self._by_image).cpu().numpy() if self._by_image else np.zeros(shape, np.int64)
        every = all_gather_objects((seen, mine))
        ids = np.concatenate([ids for ids, _ in every])
        return np.concatenate([counts for _, counts in every])[np.argsort(ids)].transpose(1, 0, 2)
