"""What a task says of one picture, whichever task it is, and the same for those that draw it themselves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

MIN_SCORE = 0.5
"""Of what is drawn while training."""


@dataclass
class DrawablePrediction:
    """What a model finds in one image, for loggers that draw it themselves. N objects."""

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    """(N, 4) xyxy in pixels of the image."""
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) in 0 … K-1."""
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(N,) in 0 … 1."""
    class_map: np.ndarray | None = None
    """int (height, width): the class of each pixel, -1 where there is none."""
    caption: str = ""


class Result(Protocol):
    """What a task says of one picture: `tasks.detection.result.Objects`, for one."""

    def __len__(self) -> int: ...
    def above(self, threshold: float) -> Self:
        """Without what scores less than `threshold`."""
        ...

    def draw(self, image: np.ndarray) -> np.ndarray:
        """`image` (uint8 (H, W, 3), as given) with the result drawn on it."""
        ...

    def to_drawable(self) -> DrawablePrediction:
        """The same, for loggers that draw it themselves."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        ...

    def summary(self) -> str:
        """A few words."""
        ...


@runtime_checkable
class WritesMasks(Protocol):
    """A result that has masks."""

    def write_masks(self, folder: Path, stem: str) -> dict[str, str]:
        """Writes them as a PNG in `folder` whose name begins with `stem`; its name, under what it is."""
        ...
