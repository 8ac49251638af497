"""What a data set must offer to be trained on: the protocols `Source` and `Split`."""

from typing import Literal, Protocol

import numpy as np

from tasks.data.annotations import Annotations

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
