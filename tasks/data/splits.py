"""`Split`: the images and annotations of one part of a data set, in files or in memory.

Annotations are of one of three kinds, which the types say: objects with boxes (`Annotations`), one class an image
(`ImageLabels`), one class a pixel (`ClassMaps`).
"""

from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.data.loading.images import DEFAULT_READING, Reading
from tasks.data.loading.storage import ShownAt, open_images

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


def check_split(name: object) -> None:
    """Raises ValueError for what is no name of a split."""
    if name not in SPLITS:
        raise ValueError(f"split={name} is unknown; wanted {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")


A = TypeVar("A", Annotations, ImageLabels, ClassMaps)


class Split(Generic[A]):
    """Images and annotations in one order: image i has the annotations of row i."""

    sizes: np.ndarray | None = None
    """(I, 2): the (height, width) that the annotations declare, where they do."""

    def __init__(self, annotations: A):
        self.annotations = annotations

    def __len__(self) -> int:
        """Number of images."""
        return len(self.annotations)

    @property
    def objects(self) -> Annotations | None:
        """The objects that there are to learn from; None where it is no objects."""
        return self.annotations if isinstance(self.annotations, Annotations) else None

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright, of the size that the annotations declare."""
        raise NotImplementedError

    def reduced_image(self, index: int, shown_at: ShownAt) -> np.ndarray:
        """The image decoded at a part of its size where its format allows it, no smaller than it is shown at."""
        return self.image(index)


class ArraySplit(Split[A]):
    """Images of one size in one array (I, H, W, 3) uint8."""

    def __init__(self, images: np.ndarray, annotations: A):
        super().__init__(annotations)
        self.images = images

    def image(self, index: int) -> np.ndarray:
        return self.images[index].copy()  # what a caller draws on it must not stay


class FileSplit(Split[A]):
    """Images of one folder, which may also be, or lead into, a tar or zip file (tasks/data/loading/storage.py)."""

    def __init__(
        self,
        folder: Path,
        annotations: A,
        sizes: np.ndarray | None = None,
        reading: Reading = DEFAULT_READING,
    ):
        """`sizes` as in `Split`; `reading` is how files are read."""
        super().__init__(annotations)
        self.folder = folder
        self.reading = reading
        self.storage = open_images(folder, reading)
        self.sizes = sizes

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright. Raises ValueError, naming the file, where it cannot be read or is
        not of the size that the annotations declare."""
        name = self.annotations.file_name(index)
        image = self.storage.image(name)
        if self.sizes is None:
            return image
        height, width = self.sizes[index].tolist()
        if image.shape[:2] != (height, width):
            differs = (
                f"image '{self.folder / name}', upright, is {image.shape[1]} wide and {image.shape[0]} high, but its "
                f"annotations declare {width} wide and {height} high"
            )
            if image.shape[:2] == (width, height):
                raise ValueError(
                    f"{differs}, as if its EXIF orientation were ignored; declare size and boxes of the "
                    "upright image, or remove the orientation from the file"
                )
            raise ValueError(f"{differs}; correct the annotation file or restore the image")
        return image

    def reduced_image(self, index: int, shown_at: ShownAt) -> np.ndarray:
        image = self.storage.image(self.annotations.file_name(index), shown_at)
        if self.sizes is None:
            return image
        height, width = self.sizes[index].tolist()
        if image.shape[:2] not in {(-(-height // n), -(-width // n)) for n in (1, 2, 4, 8)}:
            return self.image(index)  # says what is wrong with it
        return image
