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
from pathlib import Path, PurePosixPath
from typing import Unpack

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.class_maps import BACKGROUND
from tasks.data.formats.cache import files_in
from tasks.data.formats.file_names import check_inside, read_own_lines
from tasks.data.formats.labelled import LabelledImage, LabelledObject, parse_xml, to_raw
from tasks.data.formats.mask_png import MaskFiles, MaskList, check_masks_exist, class_values, read_mask
from tasks.data.formats.object_files import MadeOf, ObjectFiles, ObjectOptions
from tasks.data.formats.raw import RawSplit
from tasks.data.formats.values import MAX_SIDE, to_flag, to_number
from tasks.data.loading.images import SUFFIXES, Reading
from tasks.data.loading.storage import ImageStorage, is_file, is_folder, open_images
from tasks.data.quality.image_checks import image_size
from tasks.data.quality.issues import BAD_CROWD
from tasks.data.splits import SplitName

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of VOC 2007 to 2012: class k + 1 of its class masks, where 0 is background."""
FLAG = re.compile(r"\s+(-1|0|1)$")
"""What VOC's lists of single classes say of an image behind its name: that it shows none, a difficult one, or one."""
VOID = 255
"""In an object mask: borders between objects."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_list(
    root: Path, kind: str, lists: Mapping[SplitName, str | None], name: SplitName, reading: Reading
) -> list[str]:
    """Names of images, without ending, in the list of a split, `ImageSets/<kind>/<lists[name]>.txt`.

    Raises FileNotFoundError, with the setting, where there is no such list; ValueError for one that is empty or names
    an image twice, or where a setting says that there is none.
    """
    if lists[name] is None:
        raise ValueError(f"the data set has no {name} split; name its list with data.{name}=")
    folder = root / "ImageSets" / kind
    path = folder / f"{lists[name]}.txt"
    if not is_file(path):
        present = _stems(folder, (".txt",)) if is_folder(folder) else {}
        there = f"there are {', '.join(list(present)[:8])}" if present else f"'{folder}' holds no lists"
        raise FileNotFoundError(
            f"there is no list of images '{path}' ({there}); write one, a name without ending a line, or choose "
            f"another with data.{name}="
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


def has_list(root: Path, kind: str, list_name: str | None) -> bool:
    """Whether there is such a list of images."""
    return list_name is not None and is_file(root / "ImageSets" / kind / f"{list_name}.txt")


def without_flags(lines: list[str], root: Path) -> list[str]:
    """Names out of the lines of a list. Behind a name VOC's lists of single classes have -1, 0 or 1; anything else
    belongs to the name, and so do these where there is an annotation of that name."""
    if not any(FLAG.search(line) for line in lines):
        return lines
    present = _stems(root / "Annotations", (".xml",)) if is_folder(root / "Annotations") else {}
    return [line if spelling(line, present) else FLAG.sub("", line) for line in lines]


def forms(name: str) -> list[str]:
    """The name in each of Unicode's forms, its own first."""
    return list(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))


def spelling(name: str, present: Mapping[str, str]) -> str | None:
    """The name as it is in `present`, in whichever of Unicode's forms."""
    return next((form for form in forms(name) if form in present), None)


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


def annotation_file(root: Path, name: str) -> Path:
    """The XML file of the image of that name, in whichever of Unicode's forms."""
    paths = [root / "Annotations" / f"{form}.xml" for form in forms(name)]
    return paths[0] if len(paths) == 1 else next((path for path in paths if is_file(path)), paths[0])


def read_xml(path: Path, store: ImageStorage, image: LabelledImage) -> None:
    """Adds what the XML file says to `image`, whose file is in `store`.

    VOC counts pixels from 1 and its corners are the first and last pixel inside, so that a box from 1 to 640
    is 640 wide. Corners that coincide get the width 0: such boxes are slips and no objects of one pixel. Corners
    that are swapped get the negative width that turns to the right box when it is swapped back, and numbers that
    can only be fractions of the image stay as they are. Raises FileNotFoundError or ValueError, naming the file.
    """
    check_inside(path, store)
    try:
        content = parse_xml(path, "annotation", "VOC's")
    except FileNotFoundError:
        raise FileNotFoundError(f"image '{image.file}' has no annotation: '{path}' does not exist") from None
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
    height, width = (to_number(content.findtext(f"size/{side}")) for side in ("height", "width"))
    if 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE:
        image.size = int(height), int(width)
    else:  # some tools leave it out
        image.size = image_size(store, image.file)
    corners = [[to_number(item.findtext(f"bndbox/{corner}")) for corner in CORNERS] for item in objects]
    boxes = to_extents(np.array(corners, np.float64).reshape(-1, 4)).tolist()
    for item, name, box in zip(objects, names, boxes, strict=True):
        flag = to_flag(item.findtext("difficult"))
        issue = None if flag is not None else (BAD_CROWD, f"difficult '{item.findtext('difficult'):.40}'")
        image.objects.append(LabelledObject(name, box, is_crowd=bool(flag), issue=issue))


def to_extents(corners: np.ndarray) -> np.ndarray:
    """(N, 4) first and last pixel, counted from 1, to x, y, width, height with (0, 0) the outer corner."""
    first, last = corners[:, :2], corners[:, 2:]
    with np.errstate(invalid="ignore", over="ignore"):
        between = last - first
        start = np.where(last >= first, first - 1, first)
        extent = between + np.sign(between)
        fractions = ((corners >= 0) & (corners <= 1)).all(axis=1) & (corners % 1 != 0).any(axis=1)
    start[fractions], extent[fractions] = first[fractions], between[fractions]
    return np.concatenate([start, extent], axis=1)


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
        self._read: dict[tuple[str, str], list[LabelledImage]] = {}
        for name, list_name in self.lists.items() if self.splitting is None else ():
            if list_name not in (None, name) and not any(is_file(path) for path in self._lists(list_name)):
                read_list(self.root, self._kind, self.lists, name, self.reading)  # says so

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        if self._names is None and self._splits:  # those may come from the cache, without reading anything
            return list(next(iter(self._splits.values())).annotations.class_names)
        return self._read_names()

    def _read_names(self) -> list[str]:
        """Names by label out of the annotations, where no setting gives them."""
        if self._names is None:
            used: tuple[SplitName, ...] = ("train",) if self.splitting else ("train", "val")
            present: list[SplitName] = [n for n in used if self.splitting or self.has_files(n)]
            images = [image for n in present or ["test"] for image in self._list(n)]
            self._names = sorted({o.name for image in images for o in image.objects})
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
        return has_list(self.root, self._kind, self.lists[name])

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
        images = self._list(name)
        class_names = self._read_names()
        if self.masks:
            self._read_masks(images)
        lists = f"{self.root}/ImageSets/{self._kind}/{self.lists[name]}.txt"
        return to_raw(
            name,
            lists if self.splitting is None else f"{self.root}/Annotations",
            self.images,
            images,
            [image.file for image in images],
            class_names=class_names,
            category_ids=np.arange(1, len(class_names) + 1),
            masks=self.masks,
            reading=self.reading,
            crowds="difficult",
        )

    @property
    def _kind(self) -> str:
        return "Segmentation" if self.masks else "Main"

    def _list(self, name: SplitName) -> list[LabelledImage]:
        """The images of a list, or all that there are, and what their files say; read once."""
        key = self._kind, name
        if key not in self._read:
            if self.splitting is None:
                names = read_list(self.root, self._kind, self.lists, name, self.reading)[: self.max_images]
            else:
                names = all_names(self.root)
            images = [LabelledImage(file) for file in image_files(self.images, names)]
            store = open_images(self.images, self.reading)
            for stem, image in zip(names, images, strict=True):
                try:
                    read_xml(annotation_file(self.root, stem), store, image)
                except (FileNotFoundError, ValueError) as error:
                    image.unreadable = str(error)
            self._read[key] = images
        return self._read[key]

    def _read_masks(self, images: list[LabelledImage]) -> None:
        """Adds run lengths to every object: value j of an object mask is object j of the XML, counted from 1."""
        folder = self.root / "SegmentationObject"
        names = [f"{Path(image.file).stem}.png" for image in images]
        check_masks_exist([image.file for image in images], folder, names, self.reading)
        for name, image in zip(names, images, strict=True):
            if image.unreadable:
                continue
            path, num_objects = folder / name, len(image.objects)
            values = read_mask(path, self.reading)
            if values.shape != image.size:
                raise ValueError(
                    f"mask '{path}' is {values.shape[1]} wide and {values.shape[0]} high, but its annotation declares "
                    f"{image.size[1]} wide and {image.size[0]} high; make it again from the image"
                )
            present = set(np.unique(values).tolist()) - {0, VOID}
            if beyond := present - set(range(1, num_objects + 1)):
                raise ValueError(
                    f"mask '{path}' has the value {max(beyond)}, but its annotation lists {num_objects} objects; "
                    "value j of an object mask is object j of the XML file, counted from 1"
                )
            for value in present:
                mask = np.asfortranarray(values == value, np.uint8)
                image.objects[value - 1].mask = coco_mask.encode(mask)


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
        return has_list(self.root, "Segmentation", self.lists[name])

    def list_masks(self, name: SplitName) -> MaskList:
        masks = self.root / "SegmentationClass"
        if not is_folder(masks):
            raise FileNotFoundError(
                f"data.root={self.root} has no class masks, which semantic segmentation needs: there is no folder "
                f"'{masks}'; add them, or pass task=detection for its boxes"
            )
        names = read_list(self.root, "Segmentation", self.lists, name, self.reading)[: self.max_images]
        files = image_files(self.images, names)
        return MaskList(self.images, files, masks, [f"{stem}.png" for stem in names])
