"""A data set in Pascal VOC's layout: boxes and object masks as `Annotations`, class masks as `ClassMaps`.

Objects that VOC calls difficult become `is_crowd`: never a training target, and in evaluation neither found
nor missed nor a reason to call a detection false, which is what VOC's protocol asks. (COCO's evaluation lets
such a region take in a detection by the share of the detection inside it, where VOC's looks at their IoU.)

<root>/JPEGImages/a.jpg  Annotations/a.xml  SegmentationClass/a.png  SegmentationObject/a.png
<root>/ImageSets/Main/train.txt, val.txt, …, and the same in ImageSets/Segmentation for images with masks
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.class_maps import BACKGROUND
from tasks.data.formats.mask_png import MaskFiles, MaskList, check_masks_exist, class_values, read_mask
from tasks.data.formats.object_files import ObjectFiles
from tasks.data.formats.raw import RawSplit
from tasks.data.loading.images import SUFFIXES
from tasks.data.loading.storage import is_file, is_folder, open_store, read_file, read_lines
from tasks.data.quality.image_checks import CheckImages, image_size
from tasks.data.quality.policy import OnBad
from tasks.data.splits import SplitName


@dataclass
class VocImage:
    """What one XML file says; N objects."""

    size: tuple[int, int]
    """(height, width) in pixels."""
    names: list[str]
    """(N,) class of each object."""
    boxes: np.ndarray
    """(N, 4) float64 x, y, width, height, (0, 0) the outer corner of the first pixel; NaN where no numbers are."""
    is_difficult: np.ndarray
    """(N,) bool."""


def read_list(root: Path, kind: str, name: str, option: str) -> list[str]:
    """Names of images, without ending, in `ImageSets/<kind>/<name>.txt`.

    Raises FileNotFoundError, which names `option`, where there is no such list; ValueError for one that is
    empty or names an image twice.
    """
    folder = root / "ImageSets" / kind
    path = folder / f"{name}.txt"
    if not is_file(path):
        present = _stems(folder, (".txt",)) if is_folder(folder) else {}
        there = f"there are {', '.join(list(present)[:8])}" if present else f"'{folder}' holds no lists"
        raise FileNotFoundError(
            f"there is no list of images '{path}' ({there}); write one, a name without ending a line, or choose "
            f"another with {option}="
        )
    names = [line.split()[0] for line in read_lines(path)]
    if not names:
        raise ValueError(f"the list of images '{path}' is empty; write a name without ending on each line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"the list of images '{path}' names '{twice}' more than once; each image counts once"
        )
    return names


def all_names(root: Path) -> list[str]:
    """Names of all images that have an annotation, sorted. Raises FileNotFoundError where there is none."""
    names = list(_stems(root / "Annotations", (".xml",)))
    if not names:
        raise FileNotFoundError(f"'{root / 'Annotations'}' holds no annotations (.xml) that could be split")
    return names


def image_files(folder: Path, names: list[str]) -> list[str]:
    """File of each image inside `folder`, whatever its ending; ending in .jpg where there is none."""
    present = _stems(folder, SUFFIXES)
    return [present.get(name, f"{name}.jpg") for name in names]


def _stems(folder: Path, endings: Collection[str]) -> dict[str, str]:
    """The files right in `folder`, which may be in an archive, with one of these endings: name by name without it."""
    paths = (PurePosixPath(name) for name in open_store(folder).names() if "/" not in name)
    return {path.stem: path.name for path in paths if path.suffix.lower() in endings}


def read_xml(root: Path, name: str, image: Path) -> VocImage:
    """What `Annotations/<name>.xml` says of the image in the file `image`.

    VOC counts pixels from 1 and its corners are the first and last pixel inside, so that a box from 1 to 640
    is 640 wide. Corners that coincide get the width 0: such boxes are slips and no objects of one pixel. Corners
    that are swapped get the negative width that turns to the right box when it is swapped back, and numbers that
    can only be fractions of the image stay as they are. Raises FileNotFoundError or ValueError, naming the file.
    """
    path = root / "Annotations" / f"{name}.xml"
    try:
        content = ElementTree.fromstring(read_file(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"image '{image.name}' has no annotation: '{path}' does not exist") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation '{path}' is no XML that can be read ({error})") from None
    size = int(_number(content, "size/height", 0)), int(_number(content, "size/width", 0))
    if min(size) < 1:  # some tools leave it out
        size = image_size(image)
    objects = content.findall("object")
    names = [(item.findtext("name") or "").strip() for item in objects]
    if "" in names:
        raise ValueError(f"annotation '{path}' has an object without a name; write its class, or remove it")
    corners = np.array(
        [[_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")] for item in objects]
    ).reshape(-1, 4)
    return VocImage(
        size=size,
        names=names,
        boxes=to_extents(corners),
        is_difficult=np.array([_number(item, "difficult", 0) > 0 for item in objects], bool),
    )


def to_extents(corners: np.ndarray) -> np.ndarray:
    """(N, 4) first and last pixel, counted from 1, to x, y, width, height with (0, 0) the outer corner."""
    first, last = corners[:, :2], corners[:, 2:]
    start = np.where(last >= first, first - 1, first)
    extent = np.where(last > first, last - first + 1, np.where(last < first, last - first - 1, last - first))
    fractions = ((corners >= 0) & (corners <= 1)).all(axis=1) & (corners % 1 != 0).any(axis=1)
    start[fractions], extent[fractions] = first[fractions], (last - first)[fractions]
    return np.concatenate([start, extent], axis=1)


def _number(item: ElementTree.Element, path: str, default: float = float("nan")) -> float:
    """The number in a tag; `default` where there is no tag, NaN where there is no number."""
    text = item.findtext(path)
    try:
        return default if text is None else float(text)
    except ValueError:
        return float("nan")


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


class VocData(ObjectFiles):
    """Boxes, and with `masks` the objects' masks too, of the images on VOC's lists; class maps of those with masks."""

    masks_with_boxes = False  # only the images on lists of their own have masks

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
            on_bad: this, `check_images`, `max_images`, `group_pattern` and `split_seed` are those of `ObjectFiles`.
            check_images: see there.
            masks: read the masks of objects in `SegmentationObject`.
            max_images: see there.
            split: shares of all images that have an annotation, whatever lists there are.
            group_pattern: see there.
            split_seed: see there.

        Raises:
            FileNotFoundError: `root` is not there, or not of this layout.
        """
        super().__init__(root, on_bad, check_images, masks, max_images, split, group_pattern, split_seed)
        self.images = self.root / images
        for folder in (self.images, self.root / ("Annotations" if self.partition else "ImageSets")):
            if not is_folder(folder):
                raise FileNotFoundError(
                    f"data.root={root} is not in Pascal VOC's layout: there is no folder '{folder}'; give the one "
                    f"that holds {images}, Annotations and ImageSets"
                )
        self.lists: dict[SplitName, str] = {"train": train, "val": val, "test": test}
        if classes is None and is_file(self.root / "classes.txt"):
            classes = read_lines(self.root / "classes.txt")
        self.classes = None if classes is None else [str(name) for name in classes]
        self._read: dict[tuple[str, str], VocList] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        if self.classes is None:
            used: tuple[SplitName, ...] = ("train",) if self.partition else ("train", "val")
            present: list[SplitName] = [n for n in used if self.partition or self.has_files(n)]
            lists = [self._list(n) for n in present] or [self._list("test")]
            self.classes = sorted(
                {name for listed in lists for image in listed.images for name in image.names}
            )
        return list(self.classes)

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: 1 … K, as the values of VOC's class masks."""
        return np.arange(1, len(self.class_names) + 1)

    def with_class_maps(self) -> "VocClassMaps":
        """The same folders with the class of each pixel, from `SegmentationClass`."""
        return VocClassMaps(self.root, self.images, self.lists, self.classes or VOC_CLASSES, self.max_images)

    def has_files(self, name: SplitName) -> bool:
        return is_file(self.root / "ImageSets" / self._kind / f"{self.lists[name]}.txt")

    def image_folder(self, name: SplitName) -> Path:
        return self.images

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        """The split; masks, which are other files on other lists, only of a source that was made with them."""
        listed = self._list(name)
        images = listed.images
        label_of = {name: label for label, name in enumerate(self.class_names)}
        names = [name for image in images for name in image.names]
        boxes = np.concatenate([image.boxes for image in images])
        areas = boxes[:, 2:].prod(axis=1)
        segmentations = self._object_masks(listed) if self.masks else None
        for row, mask in enumerate(segmentations or ()):
            if mask is not None:
                areas[row] = coco_mask.area(mask)
        lists = f"{self.root}/ImageSets/{self._kind}/{self.lists[name]}.txt"
        return RawSplit.without_ids(
            name,
            lists if self.partition is None else f"{self.root}/Annotations",
            self.images,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_names=listed.files,
            sizes=[image.size for image in images],
            counts=[len(image.names) for image in images],
            categories=names,
            labels=[label_of.get(name, -1) for name in names],
            boxes=boxes,
            areas=areas,
            is_crowd=np.concatenate([image.is_difficult for image in images]),
            segmentations=segmentations,
            unreadable=listed.unreadable,
        )

    @property
    def _kind(self) -> str:
        return "Segmentation" if self.masks else "Main"

    def _list(self, name: SplitName) -> VocList:
        """The images of a list, or all that there are, and what their files say; read once."""
        key = self._kind, name
        if key not in self._read:
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
            self._read[key] = listed
        return self._read[key]

    def _object_masks(self, listed: VocList) -> list[Any]:
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


class VocClassMaps(MaskFiles):
    """The class masks of a data set in VOC's layout, on the lists in `ImageSets/Segmentation`."""

    def __init__(
        self,
        root: Path,
        images: Path,
        lists: dict[SplitName, str],
        classes: Sequence[str],
        max_images: int | None,
    ):
        super().__init__(class_values([BACKGROUND, *classes], root), "error")
        self.root = root
        self.images = images
        self.lists = lists
        self.max_images = max_images

    def has_split(self, name: SplitName) -> bool:
        return is_file(self.root / "ImageSets/Segmentation" / f"{self.lists[name]}.txt")

    def list_masks(self, name: SplitName) -> MaskList:
        masks = self.root / "SegmentationClass"
        if not is_folder(masks):
            raise FileNotFoundError(
                f"data.root={self.root} has no class masks, which semantic segmentation needs: there is no folder "
                f"'{masks}'; add them, or pass task=detection for its boxes"
            )
        names = read_list(self.root, "Segmentation", self.lists[name], f"data.{name}")[: self.max_images]
        return MaskList(
            self.images, image_files(self.images, names), masks, [f"{stem}.png" for stem in names]
        )
