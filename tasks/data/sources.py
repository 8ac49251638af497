"""`Source`: a data set of any format, as splits of images with annotations of one kind.

A format subclasses the kind that it is of (`ObjectSource`, `LabelSource`, `ClassMapSource`), or `ObjectFiles`
(tasks/data/formats/object_files.py) where objects are annotated in files. What a source can be turned into it says
by a method of each source: one that cannot raises ValueError with a sentence for the user.
"""

from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self

import numpy as np

from tasks.data.annotations.class_maps import BACKGROUND, ClassMaps, paint, with_background
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.data.splits import SPLITS, A, Split, SplitName, check_split

if TYPE_CHECKING:
    from tasks.data.formats.object_files import ObjectFiles

LACKS = {
    "boxes": "detection needs a box for each object, which {name} does not have; use objects with boxes (data=coco, "
    "data=voc, data=digits, …), or the task that this data is for",
    "masks": "instance segmentation needs a mask for each object, which {name} does not have; use objects with masks "
    "(data=coco, data=digits), or task=detection for boxes alone",
    "class maps": "semantic segmentation needs the class of every pixel, which {name} does not have; use masks beside "
    "images (data=mask_png, data=voc, data=cityscapes) or objects with masks (data=coco, data=digits)",
    "classes": "classification needs a class for each image, which {name} does not have; use one folder per class "
    "(data=image_folder), data=single_digits or data=cifar10, or another task for this data",
    "files": "{name} has no files of objects that could be converted or be checked; give data=coco, data=voc or "
    "another format of objects with data.root=DIR",
}
"""What is said of a source that has not what was asked of it."""


class Source(Generic[A]):
    """A data set. Making one is cheap; a split is read, listed or drawn when it is first asked for."""

    layout = ""
    """What it is in words, where it was looked for (tasks/data/layouts/auto.py)."""
    opened_as: tuple[str, dict[str, Any]] | None = None
    """Its format and settings, where `tasks.data.open` opened it."""

    def __init__(self) -> None:
        self._splits: dict[str, Split[A]] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label, 0 … K-1."""
        raise NotImplementedError

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64, ascending: the data set's own id of each label; the labels where it has none."""
        return np.arange(len(self.class_names))

    def has_split(self, name: SplitName) -> bool:
        """Whether there is such a split; generated data has all three."""
        return True

    def expects(self, name: SplitName) -> bool:
        """Whether there must be such a split, because a setting or the format names it, be it there or not."""
        return self.has_split(name)

    def expected_splits(self) -> list[SplitName]:
        """Splits that are there, and those that must be."""
        return [name for name in SPLITS if self.has_split(name) or self.expects(name)]

    def why_untrainable(self, name: SplitName) -> str:
        """Why the files of the split hold not one object to learn from; "" where they hold one, or nobody knows."""
        return ""

    def split(self, name: SplitName) -> Split[A]:
        """The split of that name, the same object each time.

        Raises FileNotFoundError or ValueError, with one sentence, for whatever is missing or malformed.
        """
        check_split(name)
        if name not in self._splits:
            self._splits[name] = self.read_split(name)
        return self._splits[name]

    def read_split(self, name: SplitName) -> Split[A]:
        """The split, read anew."""
        raise NotImplementedError

    def with_files(self) -> "ObjectFiles":
        """The source itself as one of annotation files, which can be checked and converted."""
        self._lacks("files")

    def with_boxes(self) -> "Source[Annotations]":
        """The same images with objects and their boxes."""
        self._lacks("boxes")

    def with_masks(self, *, required: bool = False) -> "Source[Annotations]":
        """The same images with the masks of their objects; where they are `required`, an object without one is an issue
        if others have one."""
        self._lacks("masks")

    def with_class_maps(self) -> "Source[ClassMaps]":
        """The same images with the class of each pixel."""
        self._lacks("class maps")

    def with_classes(self) -> "Source[ImageLabels]":
        """The same images with one class each."""
        self._lacks("classes")

    def _lacks(self, what: str) -> NoReturn:
        raise ValueError(LACKS[what].format(name=type(self).__name__))


class LabelSource(Source[ImageLabels]):
    """Images of one class each."""

    def with_classes(self) -> Source[ImageLabels]:
        return self


class ClassMapSource(Source[ClassMaps]):
    """Images with a class for every pixel."""

    def unchecked_split(self, name: SplitName) -> Split[ClassMaps]:
        """The split whose masks may be missing or unfit, which is said where one is read."""
        return self.split(name)

    def with_class_maps(self) -> Source[ClassMaps]:
        return self


class ObjectSource(Source[Annotations]):
    """Images of objects with boxes, and masks if asked for."""

    def __init__(self, *, masks: bool):
        super().__init__()
        self.masks = masks
        self.requires_masks = False
        self._with_masks: dict[bool, Self] = {}

    def with_boxes(self) -> Source[Annotations]:
        return self

    def with_masks(self, *, required: bool = False) -> Self:
        if required not in self._with_masks:  # the same each time, so that files are read once
            source = copy(self)
            source.masks, source.requires_masks, source._splits = True, required, {}
            source._with_masks = {}
            self._with_masks[required] = source
        return self._with_masks[required]

    def with_class_maps(self) -> Source[ClassMaps]:
        """Painted from the masks of the objects."""
        return PaintedClassMaps(self.with_masks())


class PaintedClassMaps(ClassMapSource):
    """A data set of objects with masks as one of class maps: label 0 is background, label k + 1 its class k."""

    def __init__(self, source: Source[Annotations]):
        """`source` reads the masks of its objects."""
        super().__init__()
        self.source, self.layout = source, source.layout

    @property
    def class_names(self) -> list[str]:
        """Names by label, the background's first."""
        return [BACKGROUND, *self.source.class_names]

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64, ascending; the background's is one below the smallest of the data set."""
        return with_background(self.source.category_ids)

    def has_split(self, name: SplitName) -> bool:
        return self.source.has_split(name)

    def expects(self, name: SplitName) -> bool:
        return self.source.expects(name)

    def why_untrainable(self, name: SplitName) -> str:
        return self.source.why_untrainable(name)

    def read_split(self, name: SplitName) -> Split[ClassMaps]:
        """The split. Raises ValueError where its objects have no masks."""
        return PaintedSplit(self.source.split(name), name)


class PaintedSplit(Split[ClassMaps]):
    """The images of a split with class maps painted from the masks of its objects."""

    def __init__(self, split: Split[Annotations], name: str):
        self.split, self.sizes = split, split.sizes
        objects = split.annotations
        if len(objects.labels) and not objects.has_masks:
            raise ValueError(
                f"the {name} split has boxes but no masks (no 'segmentation' in its annotations), from which "
                "no class of each pixel can be told; use data with masks, or task=detection"
            )
        super().__init__(
            ClassMaps(
                class_names=[BACKGROUND, *objects.class_names],
                category_ids=with_background(objects.category_ids),
                image_ids=objects.image_ids,
                file_names=objects.file_names,
                read=partial(paint, objects),
            )
        )

    @property
    def objects(self) -> Annotations:
        """Those that the class maps are painted from."""
        return self.split.annotations

    def image(self, index: int) -> np.ndarray:
        return self.split.image(index)


def check_masks(annotations: Annotations, name: str) -> None:
    """Raises ValueError where the split called `name` has objects but a mask for none of them."""
    if len(annotations.labels) and not annotations.has_masks:
        raise ValueError(
            f"the {name} split has boxes but no masks (no 'segmentation' in its annotations), which instance "
            "segmentation learns from; use data with masks, or task=detection"
        )
