"""`RawSplit`: one split as its files say, unchecked; what every format of boxes is read into.

Legend, beside that of tasks/data/annotations/objects.py:
    rows  indices of annotations in the order of the files, 0 … M-1
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.segmentations import Rings, Segmentations
from tasks.data.formats.values import is_text
from tasks.data.loading.images import DEFAULT_READING, Reading
from tasks.data.loading.storage import ImageStorage, open_images
from tasks.data.quality.issues import Issue

LONGEST_NAME = 1000
"""Characters of a class's name, which stands in tables and messages."""


@dataclass
class RawSplit:
    """Images and annotations as columns, whatever is wrong with them."""

    name: str
    """The split's: train, val or test."""
    source: str
    """The file or folder that the annotations come from, for messages."""
    folder: Path
    """The images'."""
    folder_option: str
    """The setting that names `folder`, for messages."""
    class_names: list[str]
    """(K,) by label."""
    category_ids: np.ndarray
    """(K,) int64, ascending."""
    image_ids: np.ndarray
    """(I,) int64."""
    file_names: list[str]
    """(I,) relative to `folder`."""
    sizes: np.ndarray
    """(I, 2) int64 (height, width) as declared; of the upright file where the format declares none, (0, 0) where
    that cannot be read either."""
    ids: np.ndarray
    """(M,) int64."""
    written_images: np.ndarray
    """(M,) int64: id of the image, as written."""
    written_categories: np.ndarray
    """(M,) int64 or str: id or name of the category, as written."""
    images: np.ndarray
    """(M,) int64: index of the image, -1 where there is none of that id."""
    labels: np.ndarray
    """(M,) int64: label, -1 where the category is not declared."""
    boxes: np.ndarray
    """(M, 4) float64 x, y, width, height; NaN where there were no four numbers."""
    areas: np.ndarray
    """(M,) float64."""
    is_crowd: np.ndarray
    """(M,) bool."""
    segmentations: list[Any] | None = None
    """(M,) as COCO writes them; None where they were not asked for."""
    is_normalised: bool = False
    """Whether the format writes fractions of the image, which `boxes` are in pixels of."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Images, by index, whose annotation cannot be read, and why."""
    row_issues: dict[Issue, dict[int, str]] = field(default_factory=dict)
    """Rows with an issue that shows only in the file's own words, and what these are."""
    notes: list[str] = field(default_factory=list)
    """What was read otherwise than it is written, in words."""
    written_ids: dict[str, dict[int, str]] = field(default_factory=dict)
    """As in `Annotations`."""
    reading: Reading = DEFAULT_READING
    """How the image files are read."""
    crowds: str = "crowds (iscrowd: 1)"
    """What the format calls objects that are no training target."""
    looked_for: str = ""
    """Where annotations were looked for in vain, in words."""

    @classmethod
    def without_ids(
        cls,
        name: str,
        source: str,
        folder: Path,
        *,
        class_names: list[str],
        category_ids: np.ndarray,
        file_names: list[str],
        sizes: Sequence[tuple[int, int]] | np.ndarray,
        counts: Sequence[int],
        categories: Sequence[str],
        labels: Sequence[int],
        boxes: np.ndarray,
        **columns: Any,
    ) -> Self:
        """The columns of a format that numbers neither images nor objects: those are grouped by image, `counts` (I,)
        of each, and numbered from 1, since to pycocotools' matching id 0 means no object.

        `categories` (M,) are as written; `columns` are others than what follows from these.
        """
        rows = np.repeat(np.arange(len(file_names)), counts)
        return cls(
            name=name,
            source=source,
            folder=folder,
            folder_option="data.root",
            class_names=class_names,
            category_ids=category_ids,
            image_ids=np.arange(len(file_names)),
            file_names=file_names,
            sizes=np.array(sizes, np.int64),
            ids=np.arange(1, len(rows) + 1),
            written_images=rows,
            written_categories=np.array(categories, str),
            images=rows,
            labels=np.array(labels, np.int64),
            boxes=boxes,
            **{
                "areas": boxes[:, 2:].prod(axis=1),
                "is_crowd": np.zeros(len(rows), bool),
                **columns,
            },
        )

    def __post_init__(self) -> None:
        for name in self.class_names:
            if not is_text(name) or not name.strip() or len(name) > LONGEST_NAME:
                raise ValueError(
                    f"'{self.source}' has a class called {name!r:.40}, of {len(name)} characters; wanted text of 1 to "
                    f"{LONGEST_NAME}: rename it"
                )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def storage(self) -> ImageStorage:
        """The image files."""
        return open_images(self.folder, self.reading)

    @property
    def is_trainable(self) -> np.ndarray:
        """(M,) bool: objects of a known image and class that are no crowds."""
        return (self.images >= 0) & (self.labels >= 0) & ~self.is_crowd

    def why_untrainable(self) -> str:
        """Why there is not one object to learn from; "" where there is one."""
        if self.is_trainable.any():
            return ""
        if self.looked_for and not len(self.ids):
            return self.looked_for
        if not len(self.ids) and self.unreadable:
            return f"the annotations of {len(self.unreadable)} of its {len(self)} images cannot be read"
        if not len(self.ids):
            return f"not one of its {len(self)} images has an annotation"
        if self.is_crowd.all():
            return f"all of its {len(self.ids)} objects are {self.crowds}, which are no training targets"
        return (
            f"none of its {len(self.ids)} annotations is of a declared class and a listed image, and no crowd"
        )

    def select(self, images: np.ndarray, *, keep_lost: bool = True) -> Self:
        """The images at these positions alone, in this order, with their annotations; annotations that point
        to no image stay with `keep_lost`."""
        place = np.full(len(self) + 1, -1)  # the last is for rows without an image, at index -1
        place[images] = np.arange(len(images))
        rows = np.flatnonzero((place[self.images] >= 0) | ((self.images < 0) & keep_lost))
        return replace(
            self,
            image_ids=self.image_ids[images],
            file_names=[self.file_names[i] for i in images.tolist()],
            sizes=self.sizes[images],
            ids=self.ids[rows],
            written_images=self.written_images[rows],
            written_categories=self.written_categories[rows],
            images=place[self.images[rows]],
            labels=self.labels[rows],
            boxes=self.boxes[rows],
            areas=self.areas[rows],
            is_crowd=self.is_crowd[rows],
            segmentations=None if self.segmentations is None else [self.segmentations[row] for row in rows],
            unreadable={int(place[i]): why for i, why in self.unreadable.items() if place[i] >= 0},
            row_issues=self._select_issues(rows),
        )

    def _select_issues(self, rows: np.ndarray) -> dict[Issue, dict[int, str]]:
        position = {row: new for new, row in enumerate(rows.tolist())} if self.row_issues else {}
        return {
            issue: {position[row]: text for row, text in found.items() if row in position}
            for issue, found in self.row_issues.items()
        }

    def to_annotations(
        self, rows: np.ndarray, is_kept: np.ndarray, masks: list[Rings | bytes | None] | None
    ) -> Annotations:
        """The annotations at `rows`, of the images for which `is_kept` (I,) is true; `masks` of all M rows."""
        place = np.append(np.cumsum(is_kept) - 1, -1)
        rows = rows[np.append(is_kept, False)[self.images[rows]]]
        rows = rows[np.argsort(self.images[rows], kind="stable")]
        counts = np.bincount(place[self.images[rows]], minlength=int(is_kept.sum()))
        return Annotations(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=self.image_ids[is_kept],
            file_names=np.array([os.fsencode(n) for n, k in zip(self.file_names, is_kept, strict=True) if k]),
            sizes=self.sizes[is_kept].astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            ids=self.ids[rows],
            labels=self.labels[rows],
            boxes=self.boxes[rows],
            areas=self.areas[rows],
            is_crowd=self.is_crowd[rows],
            segmentations=None if masks is None else Segmentations.from_objects(masks[row] for row in rows),
            written_ids=self.written_ids,
        )


def positions(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each of `wanted` in `known`, of the first where it is there twice, -1 where it is not there."""
    if len(known) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(known, kind="stable")
    found = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[found] == wanted, found, -1)
