"""`Parts`: images of another data set's splits as splits of a new one, for cross-validation and rounds of labelling."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.data.loading.storage import ShownAt
from tasks.data.sources import Source
from tasks.data.splits import Split, SplitName

Rows = Mapping[SplitName, tuple[SplitName, np.ndarray]]
"""Each split of the new data set: a split of the old one, and the places of its images there."""


class Parts(Source[Any]):
    """The images of `source` that `rows` names. Files are read once, by `source`."""

    def __init__(self, source: Source[Any], rows: Rows):
        super().__init__()
        self.source, self.rows, self.layout = source, rows, source.layout
        self.may_be_mirrored = getattr(source, "may_be_mirrored", True)

    @property
    def class_names(self) -> list[str]:
        return self.source.class_names

    @property
    def category_ids(self) -> np.ndarray:
        return self.source.category_ids

    def has_split(self, name: SplitName) -> bool:
        return name in self.rows

    def read_split(self, name: SplitName) -> Split[Any]:
        if name not in self.rows:
            raise ValueError(
                f"these parts of a data set have no {name} split; they have {', '.join(self.rows)}"
            )
        of, rows = self.rows[name]
        return PartOfSplit(self.source.split(of), rows)

    def with_boxes(self) -> "Parts":
        return Parts(self.source.with_boxes(), self.rows)

    def with_masks(self, *, required: bool = False) -> "Parts":
        return Parts(self.source.with_masks(required=required), self.rows)

    def with_class_maps(self) -> "Parts":
        return Parts(self.source.with_class_maps(), self.rows)

    def with_classes(self) -> "Parts":
        return Parts(self.source.with_classes(), self.rows)


class PartOfSplit(Split[Any]):
    """The images of a split at these places (n,)."""

    def __init__(self, split: Split[Any], rows: np.ndarray):
        super().__init__(split.annotations.select(rows))
        self.split, self.rows = split, rows
        self.sizes = None if split.sizes is None else split.sizes[rows]

    def image(self, index: int) -> np.ndarray:
        return self.split.image(int(self.rows[index]))

    def reduced_image(self, index: int, shown_at: ShownAt) -> np.ndarray:
        return self.split.reduced_image(int(self.rows[index]), shown_at)


def folds(num_images: int, number: int, seed: int = 0) -> list[np.ndarray]:
    """Places of images in `number` parts as equal as can be, each in order; the same for the same seed."""
    order = np.random.default_rng(seed).permutation(num_images)
    return [np.sort(part) for part in np.array_split(order, number)]
