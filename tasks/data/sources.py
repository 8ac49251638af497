"""What a data set must offer to be trained on: the protocols `Source` and `Split`."""

from typing import Literal, Protocol

import numpy as np

from tasks.data.annotations.objects import Annotations

SplitName = Literal["train", "val", "test"]


class Split(Protocol):
    """Images and annotations of one split, in one order: image i has the annotations of row i."""

    @property
    def annotations(self) -> Annotations: ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright, of the size that the annotations declare."""
        ...


class Source(Protocol):
    """A data set. Constructing one is cheap; a split is read or generated when it is first asked for."""

    @property
    def class_names(self) -> list[str]:
        """Names by label, 0 … K-1."""
        ...

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the data set's own id of each label, ascending."""
        ...

    def split(self, name: SplitName) -> Split:
        """The split of that name, the same object each time. Raises ValueError where there is none."""
        ...


def with_masks(source: Source) -> Source:
    """The same images with the masks of their objects; ValueError where the data has nothing of the kind."""
    make = getattr(source, "with_masks", None)
    if make is None:
        raise ValueError(
            f"instance segmentation needs a mask for each object, which {type(source).__name__} does not have; use "
            "objects with masks (data=coco, data=digits), or task=detection for boxes alone"
        )
    made = make()
    if hasattr(made, "requires_masks"):
        made.requires_masks = True  # then an object without one is a fault
    return made


def check_masks(annotations: Annotations, name: str) -> None:
    """Raises ValueError where the split called `name` has objects but a mask for none of them."""
    if len(annotations.labels) and not has_masks(annotations):
        raise ValueError(
            f"the {name} split has boxes but no masks (no 'segmentation' in its annotations), which instance "
            "segmentation learns from; use data with masks, or task=detection"
        )


def has_masks(annotations: Annotations) -> bool:
    """Whether any object has a mask."""
    masks = annotations.segmentations
    return masks is not None and bool(masks.object_rings[-1] or masks.count_offsets[-1])
