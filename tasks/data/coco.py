"""A data set in COCO's format: image folders and JSON annotation files below one root."""

from copy import copy
from pathlib import Path
from typing import Self

import numpy as np

from tasks.data.annotations import Annotations
from tasks.data.class_maps import PaintedClassMaps
from tasks.data.coco_json import read_coco_json
from tasks.data.image_checks import CheckImages, check_check_images
from tasks.data.images import read_image
from tasks.data.on_bad import OnBad, check_on_bad, usable_annotations
from tasks.data.raw_split import RawSplit
from tasks.data.sources import SplitName


class CocoSplit:
    """Images of one folder with the annotations of one file."""

    def __init__(self, folder: Path, annotations: Annotations):
        self.folder = folder
        self.annotations = annotations

    def __len__(self) -> int:
        return len(self.annotations)

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright. Raises ValueError, naming the file, where it cannot be read or is
        not of the size that the annotations declare."""
        path = self.folder / self.annotations.file_name(index)
        image = read_image(path)
        height, width = self.annotations.sizes[index].tolist()
        if image.shape[:2] != (height, width):
            differs = (
                f"image '{path}', upright, is {image.shape[1]} wide and {image.shape[0]} high, but its "
                f"annotations declare {width} wide and {height} high"
            )
            if image.shape[:2] == (width, height):
                raise ValueError(
                    f"{differs}, as if its EXIF orientation were ignored; declare size and boxes of the "
                    "upright image, or remove the orientation from the file"
                )
            raise ValueError(f"{differs}; correct the annotation file or restore the image")
        return image


class CocoData:
    """COCO's layout of folders by default; any other by naming image folders and annotation files.

    Paths are relative to `root` unless absolute. A split is read when first asked for. `on_bad` says what
    happens to bad annotations and images (tasks/data/on_bad.py), `check_images` how image files are looked at
    before that; `masks` reads segmentations too; `max_images` keeps only the first so many images of each
    split, to try something out.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        train_images: str | None = "train2017",
        train_annotations: str | None = "annotations/instances_train2017.json",
        val_images: str | None = "val2017",
        val_annotations: str | None = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_annotations: str | None = None,
        on_bad: OnBad = "error",
        check_images: CheckImages = "headers",
        masks: bool = False,
        max_images: int | None = None,
    ):
        check_on_bad(on_bad)
        check_check_images(check_images)
        if max_images is not None and max_images < 1:
            raise ValueError(f"data.max_images={max_images} must be at least 1, or null for all")
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"data.root={root} does not exist or is no folder; wanted the folder that holds the images "
                "and annotation files of a COCO data set"
            )
        self.paths: dict[str, tuple[str | None, str | None]] = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
            "test": (test_images, test_annotations),
        }
        self.on_bad: OnBad = on_bad
        self.check_images: CheckImages = check_images
        self.masks = masks
        self.max_images = max_images
        self._splits: dict[str, CocoSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label; those of any split, for all of them must declare the same."""
        return self._any_split().annotations.class_names

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: original category id of each label, ascending."""
        return self._any_split().annotations.category_ids

    def split(self, name: SplitName) -> CocoSplit:
        """The split, read and checked on the first call.

        Raises FileNotFoundError or ValueError, with one sentence, for whatever is missing or malformed.
        """
        if name not in self._splits:
            split = self._read(name)
            for other_name, other in self._splits.items():
                check_same_classes(name, split.annotations, other_name, other.annotations)
            self._splits[name] = split
        return self._splits[name]

    def with_masks(self) -> Self:
        """The same data with the masks of its objects."""
        source = copy(self)
        source.masks, source._splits = True, {}
        return source

    def class_maps(self) -> PaintedClassMaps:
        """The same images with the class of each pixel, painted from the masks of the objects."""
        return PaintedClassMaps(self.with_masks())

    def _any_split(self) -> CocoSplit:
        if self._splits:
            return next(iter(self._splits.values()))
        return self.split("train" if self.paths["train"][1] is not None else "val")

    def declares(self, name: str) -> bool:
        """Whether there is an annotation file for such a split."""
        images, annotation_file = self.paths[name]
        return images is not None and annotation_file is not None and (self.root / annotation_file).is_file()

    def raw(self, name: str, *, segmentations: bool = False) -> RawSplit:
        """The split as its annotation file says, unchecked; `segmentations` reads them even without `masks`.

        Raises FileNotFoundError or ValueError, with one sentence, for files that are missing or no COCO's.
        """
        images, annotation_file = self.paths[name]
        if images is None or annotation_file is None:
            raise ValueError(
                f"the data set has no {name} split; name it with data.{name}_images= and "
                f"data.{name}_annotations="
            )
        folder = self.root / images
        if not folder.is_dir():
            raise FileNotFoundError(
                f"image folder '{folder}' does not exist; name it with data.{name}_images= (relative to "
                "data.root)"
            )
        raw = read_coco_json(self.root / annotation_file, name, folder, masks=self.masks or segmentations)
        if self.max_images is not None:
            raw = raw.select(np.arange(min(self.max_images, len(raw))))
        return raw

    def _read(self, name: SplitName) -> CocoSplit:
        annotations = usable_annotations(self, name, self.on_bad, self.check_images)
        images = self.paths[name][0]
        assert images is not None
        return CocoSplit(self.root / images, annotations)


def check_same_classes(name: str, annotations: Annotations, other_name: str, other: Annotations) -> None:
    """Raises ValueError unless both splits declare the same category ids with the same names."""
    pairs = set(zip(annotations.category_ids.tolist(), annotations.class_names, strict=True))
    other_pairs = set(zip(other.category_ids.tolist(), other.class_names, strict=True))
    if differing := sorted(pairs ^ other_pairs):
        examples = ", ".join(f"{category_id} '{class_name}'" for category_id, class_name in differing[:5])
        raise ValueError(
            f"the {name} and {other_name} splits declare different categories: {examples} stand in one of "
            "them only; both annotation files must declare the same ids and names"
        )
