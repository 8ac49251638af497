"""A data set in Pascal VOC's layout: boxes and object masks as `Annotations`, class masks as `ClassMaps`.

Objects that VOC calls difficult become `is_crowd`: never a training target, and in evaluation neither found
nor missed nor a reason to call a detection false, which is what VOC's protocol asks. (COCO's evaluation lets
such a region take in a detection by the share of the detection inside it, where VOC's looks at their IoU.)
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.class_maps import BACKGROUND
from tasks.data.coco import CocoSplit
from tasks.data.image_checks import CheckImages, check_check_images, image_size
from tasks.data.mask_png import MaskPngSplit, check_masks_exist, class_values, read_mask
from tasks.data.on_bad import OnBad, check_on_bad, usable_annotations
from tasks.data.partition import parse_partition
from tasks.data.raw_split import RawSplit
from tasks.data.sources import SplitName
from tasks.data.stores import is_file, is_folder, read_lines
from tasks.data.voc_files import VocImage, all_names, image_files, read_list, read_xml

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of VOC 2007 to 2012: class k + 1 of its class masks, where 0 is background."""
VOID = 255
"""In an object mask: borders between objects."""


@dataclass
class VocList:
    """What the files of one list of images say."""

    files: list[str]
    """(I,)."""
    images: list[VocImage]
    """(I,); without objects where the annotation cannot be read."""
    unreadable: dict[int, str]
    """Those, by index, and why."""


class VocData:
    """Boxes, and with `masks` the objects' masks too, of the images on VOC's lists; `class_maps` for pixels."""

    def __init__(
        self,
        root: str | Path,
        *,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        images: str = "JPEGImages",
        classes: Sequence[str] | None = None,
        on_bad: OnBad = "error",
        check_images: CheckImages = "headers",
        masks: bool = False,
        max_images: int | None = None,
        split: str | Sequence[float] | None = None,
        group_pattern: str | None = None,
        split_seed: int = 0,
    ):
        """
        Args:
            root: the folder that holds `JPEGImages`, `Annotations` and `ImageSets`, or a tar or zip file that does.
            train: name of the training list in `ImageSets/Main`, or with masks in `ImageSets/Segmentation`.
            val: the same for validation.
            test: the same for testing.
            images: the folder of the images in `root`, or a tar or zip file or a folder in one.
            classes: names by label. None takes those in `classes.txt`, one a line, where there is such a file, else
                the sorted names of the objects on the training and validation lists, and for class maps, whose
                numbers need a meaning, VOC's own twenty.
            on_bad: what happens to bad annotations and images (tasks/data/on_bad.py).
            check_images: how image files are looked at before that.
            masks: read the masks of objects in `SegmentationObject`.
            max_images: keep only the first so many images of each split, to try something out.
            split: shares such as "0.8/0.1/0.1": part all images that have an annotation (tasks/data/partition.py),
                whatever lists there are.
            group_pattern: a regular expression; images from whose path it takes the same text stay together.
            split_seed: another one parts them otherwise.

        Raises:
            FileNotFoundError: `root` is not there, or not of this layout.
        """
        check_on_bad(on_bad)
        check_check_images(check_images)
        self.root = Path(root).expanduser()
        self.partition = parse_partition(split, group_pattern, split_seed)
        self.images = self.root / images
        for folder in (self.images, self.root / ("Annotations" if self.partition else "ImageSets")):
            if not is_folder(folder):
                raise FileNotFoundError(
                    f"data.root={root} is not in Pascal VOC's layout: there is no folder '{folder}'; give the one "
                    f"that holds {images}, Annotations and ImageSets"
                )
        self.lists: dict[str, str] = {"train": train, "val": val, "test": test}
        if classes is None and is_file(self.root / "classes.txt"):
            classes = read_lines(self.root / "classes.txt")
        self.classes = None if classes is None else [str(name) for name in classes]
        self.on_bad: OnBad = on_bad
        self.check_images: CheckImages = check_images
        self.masks = masks
        self.max_images = max_images
        self._images: dict[str, VocList] = {}
        self._splits: dict[str, CocoSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        if self.classes is None:
            self.classes = sorted(
                {n for split in self._present() for image in self._read(split).images for n in image.names}
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
        return VocClassMaps(self.root, self.images, self.lists, self.classes or VOC_CLASSES, self.max_images)

    def split(self, name: SplitName) -> CocoSplit:
        """The split, read and checked on the first call.

        Raises FileNotFoundError or ValueError, with one sentence, for whatever is missing or malformed.
        """
        if name not in self._splits:
            annotations = usable_annotations(self, name, self.on_bad, self.check_images)
            self._splits[name] = CocoSplit(self.images, annotations)
        return self._splits[name]

    def declares(self, name: str) -> bool:
        """Whether there is a list of such a split."""
        if self.partition is not None:
            return self.partition.declares(name)
        return is_file(self.root / "ImageSets" / self._kind / f"{self.lists[name]}.txt")

    def raw(self, name: str, *, segmentations: bool = False) -> RawSplit:
        """The split as its files say, unchecked; masks, which are other files, only with `masks`. Its objects are
        numbered from 1: to pycocotools' matching, id 0 means no object."""
        listed = self._read(name if self.partition is None else "train")
        images = listed.images
        label_of = {name: label for label, name in enumerate(self.class_names)}
        names = [name for image in images for name in image.names]
        rows = np.repeat(np.arange(len(images)), [len(image.names) for image in images])
        boxes = np.concatenate([image.boxes for image in images])
        masks = self._object_masks(listed) if self.masks else None
        areas = boxes[:, 2:].prod(axis=1)
        if masks is not None:
            for row, mask in enumerate(masks):
                if mask is not None:
                    areas[row] = coco_mask.area(mask)
        lists = f"{self.root}/ImageSets/{self._kind}/{self.lists[name]}.txt"
        raw = RawSplit(
            name=name,
            source=lists if self.partition is None else f"{self.root}/Annotations",
            folder=self.images,
            folder_option="data.root",
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=np.arange(len(images)),
            file_names=listed.files,
            sizes=np.array([image.size for image in images], np.int64),
            ids=np.arange(1, len(rows) + 1),
            written_images=rows,
            written_categories=np.array(names, str),
            images=rows,
            labels=np.array([label_of.get(name, -1) for name in names], np.int64),
            boxes=boxes,
            areas=areas,
            is_crowd=np.concatenate([image.is_difficult for image in images]),
            segmentations=masks,
            unreadable=listed.unreadable,
        )
        if self.partition is not None:
            raw = self.partition.part(raw, name)
            raw = raw if self.max_images is None else raw.select(np.arange(min(self.max_images, len(raw))))
        return raw

    @property
    def _kind(self) -> str:
        return "Segmentation" if self.masks else "Main"

    def _present(self) -> list[str]:
        """The splits that training reads, as far as there are lists of them; test where there is neither."""
        if self.partition is not None:
            return ["train"]  # of which all are parts
        folder = self.root / "ImageSets" / self._kind
        return [n for n in ("train", "val") if is_file(folder / f"{self.lists[n]}.txt")] or ["test"]

    def _read(self, name: str) -> "VocList":
        if name not in self._images:
            if self.partition is None:
                names = read_list(self.root, self._kind, self.lists[name], f"data.{name}")[: self.max_images]
            else:
                names = all_names(self.root)
            files = image_files(self.images, names)
            listed = VocList(files, [], {})
            for stem, file in zip(names, files, strict=True):
                try:
                    listed.images.append(read_xml(self.root, stem, self.images / file))
                except (FileNotFoundError, ValueError) as error:
                    listed.unreadable[len(listed.images)] = str(error)
                    size = image_size(self.images / file)
                    listed.images.append(VocImage(size, [], np.zeros((0, 4)), np.zeros(0, bool)))
            self._images[name] = listed
        return self._images[name]

    def _object_masks(self, listed: "VocList") -> list[Any]:
        """Run lengths of every object: value j of an object mask is object j of the XML, counted from 1."""
        folder = self.root / "SegmentationObject"
        names = [f"{Path(file).stem}.png" for file in listed.files]
        check_masks_exist(listed.files, folder, names)
        found: list[Any] = []
        for i, (name, image) in enumerate(zip(names, listed.images, strict=True)):
            if i in listed.unreadable:
                continue
            path = folder / name
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
                found.append(coco_mask.encode(mask) if value in present else None)
        return found


class VocClassMaps:
    """The class masks of a data set in VOC's layout, on the lists in `ImageSets/Segmentation`."""

    def __init__(
        self,
        root: Path,
        images: Path,
        lists: dict[str, str],
        classes: Sequence[str],
        max_images: int | None,
    ):
        self.root = root
        self.images = images
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
            if not is_folder(masks):
                raise FileNotFoundError(
                    f"data.root={self.root} has no class masks, which semantic segmentation needs: there is no folder "
                    f"'{masks}'; add them, or pass task=detection for its boxes"
                )
            names = read_list(self.root, "Segmentation", self.lists[name], f"data.{name}")[: self.max_images]
            files = image_files(self.images, names)
            found = [f"{stem}.png" for stem in names]
            check_masks_exist(files, masks, found)
            paths = [masks / file for file in found]
            self._splits[name] = MaskPngSplit(self.images, files, paths, self.classes, "error")
        return self._splits[name]
