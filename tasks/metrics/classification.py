"""Accuracies of a classifier over a data set, and its best classes for every image as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts import Batch, Classification
from tasks.distributed import all_gather_objects
from tasks.files import write_csv, write_text
from tasks.metrics.accuracy import AccuracyMetric
from tasks.metrics.outcomes import LabelOutcomes

if TYPE_CHECKING:
    from tasks.data.annotations.image_labels import ImageLabels

NUM_BEST = 5


class ClassificationMetric:
    """`AccuracyMetric` on the contracts' types; also keeps 70 bytes an image for `write_results`."""

    def __init__(self, annotations: ImageLabels) -> None:
        self.annotations = annotations
        self.accuracy = AccuracyMetric(annotations.class_names, annotations.image_ids)
        self.reset()

    def reset(self) -> None:
        """Forgets every image seen."""
        self.accuracy.reset()
        self._seen: list[list[np.ndarray]] = []  # image ids (B,), best labels (B, 5), their probabilities
        self._gathered: tuple[np.ndarray, list[list[np.ndarray]]] | None = None

    def update(self, predictions: Classification, batch: Batch) -> None:
        """Adds the images of one batch."""
        assert batch.class_ids is not None, "the batch has no classes"
        shares = predictions.probabilities()
        best = shares.topk(min(NUM_BEST, shares.shape[1]), dim=1)
        # Copied while the device works; the accuracies, which wait for it, are behind in its queue.
        is_cuda = shares.is_cuda
        columns = [x.detach().to("cpu", non_blocking=is_cuda) for x in (best.indices, best.values)]
        self.accuracy.update(predictions.logits, batch.class_ids, batch.image_ids)
        self._seen.append([batch.image_ids.cpu().numpy(), *(column.numpy() for column in columns)])
        self._gathered = None

    def compute(self) -> dict[str, float]:
        """`top1`, `top5`, `mean_class_accuracy` and `accuracy/<class name>`, each in 0 … 1.

        Raises:
            ValueError: unless every image of the annotations was seen exactly once, over all ranks.
        """
        numbers = self.accuracy.compute()
        self._all_ranks()
        return numbers

    def outcomes(self) -> LabelOutcomes:
        """What happened on each image, by ascending id, for intervals and comparisons; on one rank after `compute`."""
        _, batches = self._all_ranks()
        ids, best, shares = (np.concatenate(column) for column in zip(*batches, strict=True))
        order = np.argsort(ids)
        labels = self.annotations.labels[np.argsort(self.annotations.image_ids)]
        return LabelOutcomes(labels, best[order], shares[order, 0], self.annotations.class_names)

    def write_results(self, folder: Path) -> None:
        """`classes.json`, the best classes of each image, and `confusion.csv`, a row for each true class.

        In a distributed run call this on one rank, after `compute` on all.
        """
        matrix, batches = self._all_ranks()
        names = self.annotations.class_names
        rows = {image_id: row for row, image_id in enumerate(self.annotations.image_ids.tolist())}
        entries = [
            {
                "image_id": image_id,
                "file_name": self.annotations.file_name(rows[image_id]),
                "class": names[self.annotations.labels[rows[image_id]]],
                "best": [
                    {"class": names[label], "probability": share}
                    for label, share in zip(labels, shares, strict=True)
                ],
            }
            for batch in batches
            for image_id, labels, shares in zip(*(column.tolist() for column in batch), strict=True)
        ]
        entries.sort(key=lambda entry: entry["image_id"])
        write_text(folder / "classes.json", "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")
        rows = ([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
        write_csv(folder / "confusion.csv", ["true class", *names], rows)

    def _all_ranks(self) -> tuple[np.ndarray, list[list[np.ndarray]]]:
        """The confusion matrix (K, K) and the batches seen, of all ranks."""
        if self._gathered is None:
            batches = [batch for rank in all_gather_objects(self._seen) for batch in rank]
            self._gathered = self.accuracy.confusion_matrix(), batches
        return self._gathered
