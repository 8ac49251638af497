"""A data set in Pascal VOC's layout: boxes and object masks as `Annotations`, class masks as `ClassMaps`.

Objects that VOC calls difficult become `is_crowd`: never a training target, and in evaluation neither found
nor missed nor a reason to call a detection false, which is what VOC's protocol asks. (COCO's evaluation lets
such a region take in a detection by the share of the detection inside it, where VOC's looks at their IoU.)
"""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations import Annotations
from tasks.data.checks import AnnotationColumns, OnBad, check_on_bad, resolve
from tasks.data.class_maps import BACKGROUND
from tasks.data.coco import CocoSplit
from tasks.data.mask_png import MaskPngSplit, check_masks_exist, class_values, read_mask
from tasks.data.segmentations import Segmentations
from tasks.data.sources import SplitName
from tasks.data.voc_files import IMAGES, VocImage, image_files, read_list, read_xml

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of VOC 2007 to 2012: class k + 1 of its class masks, where 0 is background."""
VOID = 255
"""In an object mask: borders between objects."""


class VocData:
    """Boxes, and with `masks` the objects' masks too, of the images on VOC's lists; `class_maps` for pixels."""

    def __init__(
        self,
        root: str | Path,
        *,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        classes: Sequence[str] | None = None,
        on_bad: OnBad = "error",
        masks: bool = False,
        max_images: int | None = None,
    ):
        """
        Args:
            root: the folder that holds `JPEGImages`, `Annotations` and `ImageSets`.
            train: name of the training list in `ImageSets/Main`, or with masks in `ImageSets/Segmentation`.
            val: the same for validation.
            test: the same for testing.
            classes: names by label. None takes the sorted names of the objects on the training and validation
                lists, and for class maps, whose numbers need a meaning, VOC's own twenty.
            on_bad: what happens to bad annotations (tasks/data/checks.py).
            masks: read the masks of objects in `SegmentationObject`.
            max_images: keep only the first so many images of each split, to try something out.

        Raises:
            FileNotFoundError: `root` is not there, or not of this layout.
        """
        check_on_bad(on_bad)
        self.root = Path(root).expanduser()
        for folder in (self.root / IMAGES, self.root / "ImageSets"):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"data.root={root} is not in Pascal VOC's layout: there is no folder '{folder}'; give the one "
                    f"that holds {IMAGES}, Annotations and ImageSets"
                )
        self.lists: dict[str, str] = {"train": train, "val": val, "test": test}
        self.classes = None if classes is None else [str(name) for name in classes]
        self.on_bad: OnBad = on_bad
        self.masks = masks
        self.max_images = max_images
        self._images: dict[str, tuple[list[str], list[VocImage]]] = {}
        self._splits: dict[str, CocoSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        if self.classes is None:
            self.classes = sorted(
                {n for split in self._present() for image in self._read(split)[1] for n in image.names}
            )
        return list(self.classes)

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: 1 … K, as the values of VOC's class masks."""
        return np.arange(1, len(self.class_names) + 1)

    def with_masks(self) -> Self:
        """The same folders with the masks of objects, on the lists in `ImageSets/Segmentation`."""
        source = copy(self)
        source.masks, source._images, source._splits = True, {}, {}
        return source

    def class_maps(self) -> "VocClassMaps":
        """The same folders with the class of each pixel, from `SegmentationClass`."""
        return VocClassMaps(self.root, self.lists, self.classes or VOC_CLASSES, self.max_images)

    def split(self, name: SplitName) -> CocoSplit:
        """The split, read and checked on the first call.

        Raises FileNotFoundError or ValueError, with one sentence, for whatever is missing or malformed.
        """
        if name not in self._splits:
            self._splits[name] = CocoSplit(self.root / IMAGES, self._annotations(name))
        return self._splits[name]

    @property
    def _kind(self) -> str:
        return "Segmentation" if self.masks else "Main"

    def _present(self) -> list[str]:
        """The splits that training reads, as far as there are lists of them; test where there is neither."""
        folder = self.root / "ImageSets" / self._kind
        return [n for n in ("train", "val") if (folder / f"{self.lists[n]}.txt").is_file()] or ["test"]

    def _read(self, name: str) -> tuple[list[str], list[VocImage]]:
        """Files of the images on a split's list, and what their XML files say."""
        if name not in self._images:
            names = read_list(self.root, self._kind, self.lists[name], f"data.{name}")[: self.max_images]
            files = image_files(self.root, names)
            images = [read_xml(self.root, n, f) for n, f in zip(names, files, strict=True)]
            self._images[name] = files, images
        return self._images[name]

    def _check(self, name: SplitName) -> None:
        """Raises ValueError that names the bad annotations, for training those of validation with them."""
        known: dict[str, VocImage] = {}
        for split in self._present() if name in self._present() else [name]:
            known.update(zip(*self._read(split), strict=True))  # by file, since lists may share images
        files, images = list(known), list(known.values())
        check_names(files, images, self.class_names)
        columns = object_columns(images, self.class_names)
        resolve(columns, image_sizes(images), files, f"{self.root}/Annotations", "error")

    def _annotations(self, name: SplitName) -> Annotations:
        if self.on_bad == "error":
            self._check(name)
        files, images = self._read(name)
        columns = object_columns(images, self.class_names)
        masks = self._object_masks(files, images) if self.masks else []
        for row, counts in enumerate(masks):
            if counts is not None:
                size = images[columns.images[row]].size
                columns.areas[row] = coco_mask.area({"size": list(size), "counts": counts})
        source = f"{self.root}/ImageSets/{self._kind}/{self.lists[name]}.txt"
        kept = resolve(columns, image_sizes(images), files, source, self.on_bad)
        per_image = np.bincount(columns.images[kept], minlength=len(images))
        return Annotations(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=np.arange(len(images)),
            file_names=np.array([file.encode() for file in files]),
            sizes=image_sizes(images).astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(per_image)]),
            ids=columns.ids[kept],
            labels=columns.labels[kept],
            boxes=columns.boxes[kept],
            areas=columns.areas[kept],
            is_crowd=np.concatenate([image.is_difficult for image in images])[kept],
            segmentations=Segmentations.from_objects(masks[row] for row in kept) if self.masks else None,
        )

    def _object_masks(self, files: list[str], images: list[VocImage]) -> list[bytes | None]:
        """Run lengths of every object: value j of an object mask is object j of the XML, counted from 1."""
        paths = [self.root / "SegmentationObject" / f"{Path(file).stem}.png" for file in files]
        check_masks_exist(files, paths)
        found: list[bytes | None] = []
        for path, image in zip(paths, images, strict=True):
            values = read_mask(path)
            if values.shape != image.size:
                raise ValueError(
                    f"mask '{path}' is {values.shape[1]} wide and {values.shape[0]} high, but its annotation declares "
                    f"{image.size[1]} wide and {image.size[0]} high; make it again from the image"
                )
            present = set(np.unique(values).tolist()) - {0, VOID}
            if beyond := present - set(range(1, len(image.names) + 1)):
                raise ValueError(
                    f"mask '{path}' has the value {max(beyond)}, but its annotation lists {len(image.names)} objects; "
                    "value j of an object mask is object j of the XML file, counted from 1"
                )
            for value in range(1, len(image.names) + 1):
                mask = np.asfortranarray(values == value, np.uint8)
                counts: Any = coco_mask.encode(mask)["counts"]
                found.append(counts if value in present else None)
        return found


class VocClassMaps:
    """The class masks of a data set in VOC's layout, on the lists in `ImageSets/Segmentation`."""

    def __init__(self, root: Path, lists: dict[str, str], classes: Sequence[str], max_images: int | None):
        self.root = root
        self.lists = lists
        self.classes = class_values([BACKGROUND, *classes], root)
        self.max_images = max_images
        self._splits: dict[str, MaskPngSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label, the background's first."""
        return list(self.classes)

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the labels themselves, which are the values in the masks."""
        return np.array(list(self.classes.values()))

    def split(self, name: SplitName) -> MaskPngSplit:
        """The split; the sizes of images and masks are compared on the first call.

        Raises FileNotFoundError or ValueError, with one sentence, for whatever is missing or malformed.
        """
        if name not in self._splits:
            masks = self.root / "SegmentationClass"
            if not masks.is_dir():
                raise FileNotFoundError(
                    f"data.root={self.root} has no class masks, which semantic segmentation needs: there is no folder "
                    f"'{masks}'; add them, or pass task=detection for its boxes"
                )
            names = read_list(self.root, "Segmentation", self.lists[name], f"data.{name}")[: self.max_images]
            files = image_files(self.root, names)
            paths = [masks / f"{stem}.png" for stem in names]
            check_masks_exist(files, paths)
            self._splits[name] = MaskPngSplit(self.root / IMAGES, files, paths, self.classes, "error")
        return self._splits[name]


def object_columns(images: Sequence[VocImage], class_names: Sequence[str]) -> AnnotationColumns:
    """The objects of all images in turn, numbered from 1: to pycocotools' matching, id 0 means no object."""
    label_of = {name: label for label, name in enumerate(class_names)}
    rows = np.repeat(np.arange(len(images)), [len(image.names) for image in images])
    labels = np.array([label_of.get(name, -1) for image in images for name in image.names], np.int64)
    boxes = np.concatenate([image.boxes for image in images])
    return AnnotationColumns(
        ids=np.arange(1, len(rows) + 1),
        image_ids=rows,
        category_ids=labels + 1,
        images=rows,
        labels=labels,
        boxes=boxes,
        areas=boxes[:, 2:].prod(axis=1),
        bad_segmentations=np.zeros(len(rows), bool),
    )


def image_sizes(images: Sequence[VocImage]) -> np.ndarray:
    """(I, 2) int64 as (height, width)."""
    return np.array([image.size for image in images], np.int64)


def check_names(files: Sequence[str], images: Sequence[VocImage], class_names: Sequence[str]) -> None:
    """Raises ValueError, which names the image, for an object of a class that is none of `class_names`."""
    for file, image in zip(files, images, strict=True):
        if unknown := [name for name in image.names if name not in class_names]:
            raise ValueError(
                f"the annotation of '{file}' has an object of class '{unknown[0]}', which is none of "
                f"{', '.join(class_names[:5])}{', …' if len(class_names) > 5 else ''}; add it to data.classes, or "
                "pass data.on_bad=drop to leave such objects out"
            )
