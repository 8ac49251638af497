"""A data set in Pascal VOC's layout: boxes and object masks as `Annotations`, class masks as `ClassMaps`.

Objects that VOC calls difficult become `is_crowd`: never a training target, and in evaluation neither found
nor missed nor a reason to call a detection false, which is what VOC's protocol asks. (COCO's evaluation lets
such a region take in a detection by the share of the detection inside it, where VOC's looks at their IoU.)

<root>/JPEGImages/a.jpg  Annotations/a.xml  SegmentationClass/a.png  SegmentationObject/a.png
<root>/ImageSets/Main/train.txt, val.txt, …, and the same in ImageSets/Segmentation for images with masks
"""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Unpack
from xml.etree import ElementTree

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.class_maps import BACKGROUND
from tasks.data.formats.cache import files_in
from tasks.data.formats.coco import MAX_SIDE
from tasks.data.formats.file_names import check_inside, read_own_lines
from tasks.data.formats.labelled import parse_xml
from tasks.data.formats.mask_png import MaskFiles, MaskList, check_masks_exist, class_values, read_mask
from tasks.data.formats.object_files import MadeOf, ObjectFiles, ObjectOptions
from tasks.data.formats.raw import RawSplit
from tasks.data.formats.values import to_flag, to_number
from tasks.data.loading.images import SUFFIXES, Reading
from tasks.data.loading.storage import (
    ImageStorage,
    is_file,
    is_folder,
    open_images,
)
from tasks.data.quality.image_checks import image_size
from tasks.data.quality.issues import BAD_CROWD
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
    unclear: dict[int, str] = field(default_factory=dict)
    """Objects, by index, whose flag is neither 0 nor 1, and what it is."""


def read_list(root: Path, kind: str, name: str, option: str, reading: Reading) -> list[str]:
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
    names = without_flags(read_own_lines(path, reading), root)
    if not names:
        raise ValueError(f"the list of images '{path}' is empty; write a name without ending on each line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"the list of images '{path}' names '{twice}' more than once; each image counts once"
        )
    return names


def without_flags(lines: list[str], root: Path) -> list[str]:
    """Names out of the lines of a list. Behind a name VOC's lists of single classes have -1, 0 or 1; anything else
    belongs to the name, and so do these where there is an annotation of that name."""
    if not any(FLAG.search(line) for line in lines):
        return lines
    present = _stems(root / "Annotations", (".xml",)) if is_folder(root / "Annotations") else {}
    return [line if spelling(line, present) else FLAG.sub("", line) for line in lines]


def spelling(name: str, present: Mapping[str, str]) -> str | None:
    """The name as it is in `present`, in whichever of Unicode's forms."""
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return next((form for form in forms if form in present), None)


def all_names(root: Path) -> list[str]:
    """Names of all images that have an annotation, sorted. Raises FileNotFoundError where there is none."""
    names = list(_stems(root / "Annotations", (".xml",)))
    if not names:
        raise FileNotFoundError(f"'{root / 'Annotations'}' holds no annotations (.xml) that could be split")
    return names


def image_files(folder: Path, names: list[str]) -> list[str]:
    """File of each image inside `folder`, whatever its ending; ending in .jpg where there is none."""
    present = _stems(folder, SUFFIXES)
    return [f"{name}.jpg" if (there := spelling(name, present)) is None else present[there] for name in names]


def _stems(folder: Path, endings: Collection[str]) -> dict[str, str]:
    """The files right in `folder`, which may be in an archive, with one of these endings: name by name without it."""
    paths = (PurePosixPath(name) for name in open_images(folder).names() if "/" not in name)
    return {path.stem: path.name for path in paths if path.suffix.lower() in endings}


def read_xml(root: Path, name: str, store: ImageStorage, image: str) -> VocImage:
    """What `Annotations/<name>.xml` says of the file `image` in `store`; see `read_xml_file`."""
    return read_xml_file(annotation_file(root, name), store, image)


def read_xml_file(path: Path, store: ImageStorage, image: str) -> VocImage:
    """What the XML file says of the file `image` in `store`.

    VOC counts pixels from 1 and its corners are the first and last pixel inside, so that a box from 1 to 640
    is 640 wide. Corners that coincide get the width 0: such boxes are slips and no objects of one pixel. Corners
    that are swapped get the negative width that turns to the right box when it is swapped back, and numbers that
    can only be fractions of the image stay as they are. Raises FileNotFoundError or ValueError, naming the file.
    """
    check_inside(path, store)
    try:
        content = parse_xml(path, "annotation", "VOC's")
    except FileNotFoundError:
        raise FileNotFoundError(f"image '{image}' has no annotation: '{path}' does not exist") from None
    size = tuple(_side(content, f"size/{side}") for side in ("height", "width"))
    if min(size) < 1:  # some tools leave it out
        size = image_size(store, image)
    objects = content.findall("object")
    names = [(item.findtext("name") or "").strip() for item in objects]
    if "" in names:
        raise ValueError(f"annotation '{path}' has an object without a name; write its class, or remove it")
    for item in objects:
        if len(item.findall("bndbox")) > 1 or len(item.findall("name")) > 1:
            raise ValueError(
                f"annotation '{path}' has an object '{item.findtext('name')}' with several boxes or names; write an "
                "<object> for each"
            )
    corners = np.array(
        [
            [to_number(item.findtext(f"bndbox/{s}")) for s in ("xmin", "ymin", "xmax", "ymax")]
            for item in objects
        ]
    ).reshape(-1, 4)
    flags = [to_flag(item.findtext("difficult")) for item in objects]
    return VocImage(
        size=(size[0], size[1]),
        names=names,
        boxes=to_extents(corners),
        is_difficult=np.array([bool(flag) for flag in flags], bool),
        unclear={
            row: f"difficult '{objects[row].findtext('difficult'):.40}'"
            for row, flag in enumerate(flags)
            if flag is None
        },
    )


def annotation_file(root: Path, name: str) -> Path:
    """The XML file of the image of that name, in whichever of Unicode's forms."""
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    paths = [root / "Annotations" / f"{form}.xml" for form in dict.fromkeys(forms)]
    return paths[0] if len(paths) == 1 else next((path for path in paths if is_file(path)), paths[0])


def to_extents(corners: np.ndarray) -> np.ndarray:
    """(N, 4) first and last pixel, counted from 1, to x, y, width, height with (0, 0) the outer corner."""
    with np.errstate(invalid="ignore", over="ignore"):
        return _to_extents(corners)


def _to_extents(corners: np.ndarray) -> np.ndarray:
    first, last = corners[:, :2], corners[:, 2:]
    start = np.where(last >= first, first - 1, first)
    extent = np.where(last > first, last - first + 1, np.where(last < first, last - first - 1, last - first))
    fractions = ((corners >= 0) & (corners <= 1)).all(axis=1) & (corners % 1 != 0).any(axis=1)
    start[fractions], extent[fractions] = first[fractions], (last - first)[fractions]
    return np.concatenate([start, extent], axis=1)


def _side(item: ElementTree.Element, path: str) -> int:
    """The number of pixels in a tag; 0 where there is none that can be one."""
    value = to_number(item.findtext(path))
    return int(value) if 1 <= value <= MAX_SIDE else 0


VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of VOC 2007 to 2012: class k + 1 of its class masks, where 0 is background."""
FLAG = re.compile(r"\s+(-1|0|1)$")
"""What VOC's lists of single classes say of an image behind its name: that it shows none, a difficult one, or one."""
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
        train: str | None = "train",
        val: str | None = "val",
        test: str | None = "test",
        images: str = "JPEGImages",
        classes: Sequence[str] | None = None,
        **options: Unpack[ObjectOptions],
    ):
        """
        Args:
            root: the folder that holds `JPEGImages`, `Annotations` and `ImageSets`, or a tar or zip file that does.
            train: name of the training list in `ImageSets/Main`, or with masks in `ImageSets/Segmentation`; None for
                no such split.
            val: the same for validation.
            test: the same for testing.
            images: the folder of the images in `root`, or a tar or zip file or a folder in one.
            classes: names by label. None takes those in `classes.txt`, one a line, where there is such a file, else
                the sorted names of the objects on the training and validation lists, and for class maps, whose
                numbers need a meaning, VOC's own twenty.
            options: those of `ObjectFiles`. `masks` are read in `SegmentationObject`; `split` are shares of all images
                that have an annotation, whatever lists there are.

        Raises:
            FileNotFoundError: `root` is not there, or not of this layout, or a list that a setting names is missing.
        """
        super().__init__(root, **options)
        self.images = self.root / images
        for folder in (self.images, self.root / ("Annotations" if self.splitting else "ImageSets")):
            if not is_folder(folder):
                raise FileNotFoundError(
                    f"data.root={root} is not in Pascal VOC's layout: there is no folder '{folder}'; give the one "
                    f"that holds {images}, Annotations and ImageSets"
                )
        self.lists: dict[SplitName, str | None] = {"train": train, "val": val, "test": test}
        if classes is None and is_file(self.root / "classes.txt"):
            classes = read_own_lines(self.root / "classes.txt", self.reading)
        self.classes = None if classes is None else [str(name) for name in classes]
        self._names = self.classes
        self._read: dict[tuple[str, str], VocList] = {}
        for name, list_name in self.lists.items() if self.splitting is None else ():
            if list_name not in (None, name) and not any(is_file(path) for path in self._lists(list_name)):
                read_list(self.root, self._kind, list_name, f"data.{name}", self.reading)  # says so

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        if (
            self._names is None and self._splits
        ):  # which may have come from the cache, without reading anything
            return list(next(iter(self._splits.values())).annotations.class_names)
        return self._read_names()

    def _read_names(self) -> list[str]:
        """Names by label out of the annotations, where no setting gives them."""
        if self._names is None:
            used: tuple[SplitName, ...] = ("train",) if self.splitting else ("train", "val")
            present: list[SplitName] = [n for n in used if self.splitting or self.has_files(n)]
            lists = [self._list(n) for n in present] or [self._list("test")]
            self._names = sorted(
                {name for listed in lists for image in listed.images for name in image.names}
            )
        return list(self._names)

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: 1 … K, as the values of VOC's class masks."""
        return np.arange(1, len(self.class_names) + 1)

    def with_class_maps(self) -> "VocClassMaps":
        """The same folders with the class of each pixel, from `SegmentationClass`."""
        maps = VocClassMaps(
            self.root, self.images, self.lists, self.classes or VOC_CLASSES, self.max_images, self.reading
        )
        maps.layout = self.layout
        return maps

    def has_files(self, name: SplitName) -> bool:
        list_name = self.lists[name]
        return list_name is not None and is_file(self.root / "ImageSets" / self._kind / f"{list_name}.txt")

    def expects_files(self, name: SplitName) -> bool:
        """Test's list only where a setting names it."""
        return self.lists[name] is not None and (name != "test" or self.lists[name] != name)

    def made_of(self, name: SplitName) -> MadeOf:
        """Of the images too, whose sizes may be read."""
        lists = [path for name in self.lists.values() if name is not None for path in self._lists(name)]
        folders = [self.root / "Annotations", self.images]
        folders += [self.root / "SegmentationObject"] if self.masks else []
        return MadeOf(
            self.root / "Annotations",
            [path for path in lists if is_file(path)] + files_in(folders),
            {"lists": self.lists, "images": str(self.images), "classes": self.classes},
        )

    def _lists(self, name: str) -> list[Path]:
        return [self.root / "ImageSets" / kind / f"{name}.txt" for kind in ("Main", "Segmentation")]

    def image_folder(self, name: SplitName) -> Path:
        return self.images

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        """The split; masks, which are other files on other lists, only of a source that was made with them."""
        listed = self._list(name)
        images = listed.images
        class_names = self._read_names()
        label_of = {name: label for label, name in enumerate(class_names)}
        names = [name for image in images for name in image.names]
        boxes = np.concatenate([image.boxes for image in images])
        counts = [len(image.names) for image in images]
        first = np.cumsum([0, *counts]).tolist()
        unclear = {
            first[i] + row: text for i, image in enumerate(images) for row, text in image.unclear.items()
        }
        with np.errstate(invalid="ignore", over="ignore"):
            areas = boxes[:, 2:].prod(axis=1)
        segmentations = self._object_masks(listed) if self.masks else None
        for row, mask in enumerate(segmentations or ()):
            if mask is not None:
                areas[row] = coco_mask.area(mask)
        lists = f"{self.root}/ImageSets/{self._kind}/{self.lists[name]}.txt"
        return RawSplit.without_ids(
            name,
            lists if self.splitting is None else f"{self.root}/Annotations",
            self.images,
            class_names=class_names,
            category_ids=np.arange(1, len(class_names) + 1),
            file_names=listed.files,
            sizes=[image.size for image in images],
            counts=counts,
            categories=names,
            labels=[label_of.get(name, -1) for name in names],
            boxes=boxes,
            areas=areas,
            is_crowd=np.concatenate([image.is_difficult for image in images]),
            segmentations=segmentations,
            unreadable=listed.unreadable,
            row_issues={BAD_CROWD: unclear} if unclear else {},
            reading=self.reading,
            crowds="difficult",
        )

    @property
    def _kind(self) -> str:
        return "Segmentation" if self.masks else "Main"

    def _list(self, name: SplitName) -> VocList:
        """The images of a list, or all that there are, and what their files say; read once."""
        key = self._kind, name
        if key not in self._read:
            if self.splitting is None:
                list_name = named_list(self.lists, name)
                names = read_list(self.root, self._kind, list_name, f"data.{name}", self.reading)[
                    : self.max_images
                ]
            else:
                names = all_names(self.root)
            files = image_files(self.images, names)
            listed, store = VocList(files, [], {}), open_images(self.images, self.reading)
            for stem, file in zip(names, files, strict=True):
                try:
                    listed.images.append(read_xml(self.root, stem, store, file))
                except (FileNotFoundError, ValueError) as error:
                    listed.unreadable[len(listed.images)] = str(error)
                    size = image_size(store, file)
                    listed.images.append(VocImage(size, [], np.zeros((0, 4)), np.zeros(0, bool)))
            self._read[key] = listed
        return self._read[key]

    def _object_masks(self, listed: VocList) -> list[Any]:
        """Run lengths of every object: value j of an object mask is object j of the XML, counted from 1."""
        folder = self.root / "SegmentationObject"
        names = [f"{Path(file).stem}.png" for file in listed.files]
        check_masks_exist(listed.files, folder, names, self.reading)
        found: list[Any] = []
        for i, (name, image) in enumerate(zip(names, listed.images, strict=True)):
            if i in listed.unreadable:
                continue
            path = folder / name
            values = read_mask(path, self.reading)
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


def named_list(lists: Mapping[SplitName, str | None], name: SplitName) -> str:
    """The list of the images of a split. Raises ValueError where a setting says that there is none."""
    list_name = lists[name]
    if list_name is None:
        raise ValueError(f"the data set has no {name} split; name its list with data.{name}=")
    return list_name


class VocClassMaps(MaskFiles):
    """The class masks of a data set in VOC's layout, on the lists in `ImageSets/Segmentation`."""

    def __init__(
        self,
        root: Path,
        images: Path,
        lists: Mapping[SplitName, str | None],
        classes: Sequence[str],
        max_images: int | None,
        reading: Reading,
    ):
        super().__init__(class_values([BACKGROUND, *classes], root, reading), "error", reading)
        self.root = root
        self.images = images
        self.lists = lists
        self.max_images = max_images

    def has_split(self, name: SplitName) -> bool:
        list_name = self.lists[name]
        return list_name is not None and is_file(self.root / "ImageSets/Segmentation" / f"{list_name}.txt")

    def list_masks(self, name: SplitName) -> MaskList:
        masks = self.root / "SegmentationClass"
        if not is_folder(masks):
            raise FileNotFoundError(
                f"data.root={self.root} has no class masks, which semantic segmentation needs: there is no folder "
                f"'{masks}'; add them, or pass task=detection for its boxes"
            )
        list_name = named_list(self.lists, name)
        names = read_list(self.root, "Segmentation", list_name, f"data.{name}", self.reading)[
            : self.max_images
        ]
        return MaskList(
            self.images, image_files(self.images, names), masks, [f"{stem}.png" for stem in names]
        )
