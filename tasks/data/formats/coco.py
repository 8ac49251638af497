"""A data set in COCO's format: image folders and JSON annotation files below one root."""

import gc
import inspect
import json
from collections import Counter
from collections.abc import Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.class_maps import PaintedClassMaps
from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.segmentations import unwrap
from tasks.data.formats.cache import cached
from tasks.data.formats.file_names import fit_file_names, is_file_name
from tasks.data.formats.raw import RawSplit, positions
from tasks.data.formats.splitting import parse_partition
from tasks.data.formats.values import Ids, to_boxes, to_flag, to_integer, to_number
from tasks.data.loading.images import (
    DEFAULT_READING,
    MAX_PIXELS,
    ImageError,
    Reading,
    one_line,
    read_regular,
    reading_of,
)
from tasks.data.loading.storage import ImageStore, ShownAt, is_store, open_store
from tasks.data.quality.image_checks import CheckImages, check_check_images, image_sizes
from tasks.data.quality.issues import BAD_CROWD, ODD_POLYGON
from tasks.data.quality.policy import OnBad, check_on_bad, usable_annotations
from tasks.data.quality.segmentation_checks import read_masks
from tasks.data.sources import SplitName

MAX_SIDE = 1_000_000
"""Pixels; no image is wider, and what declares so is read from its file."""
Records = list[dict[str, Any]]


def read_coco_json(
    path: Path, name: str, folder: Path, *, masks: bool, reading: Reading = DEFAULT_READING
) -> RawSplit:
    """The split called `name` as the file says, unchecked; segmentations only if `masks`. `folder` is its images'.

    Raises FileNotFoundError for a missing file, ValueError for one that is not COCO's JSON.
    """
    content = load_json(path, f"data.{name}_annotations")
    images, annotations, categories = (
        records(content, key, path) for key in ("images", "annotations", "categories")
    )
    if not images:
        raise ValueError(f"'{path}' lists no images; wanted at least one")
    store, notes = open_store(folder, reading), []
    image_ids = declared_ids(images, "images", path)
    category_of = declared_ids(categories, "categories", path)
    written_images = naming(image_ids, annotations, "image_id", path)
    written_categories = naming(category_of, annotations, "category_id", path)
    category_ids, class_names = read_categories(
        categories, category_of.numbers, written_categories, path, notes
    )
    ids = declared_ids(annotations, "annotations", path)
    file_names = fit_file_names(read_file_names(images, path), store, notes)
    rows = positions(image_ids.numbers, written_images)
    sizes = read_sizes(images, file_names, store, notes)
    boxes, faults = read_boxes(annotations, rows, sizes, notes)
    is_crowd, unclear = read_crowds(annotations)
    kinds = {"images": image_ids, "annotations": ids, "categories": category_of}
    return RawSplit(
        name=name,
        source=str(path),
        folder=folder,
        folder_option=f"data.{name}_images",
        class_names=class_names,
        category_ids=category_ids,
        image_ids=image_ids.numbers,
        file_names=file_names,
        sizes=sizes,
        ids=ids.numbers,
        written_images=written_images,
        written_categories=written_categories,
        images=rows,
        labels=positions(category_ids, written_categories),
        boxes=boxes,
        areas=read_areas(annotations, boxes),
        is_crowd=is_crowd,
        segmentations=[unwrap(a.get("segmentation")) for a in annotations] if masks else None,
        row_faults={fault: found for fault, found in ((BAD_CROWD, unclear), (ODD_POLYGON, faults)) if found},
        notes=notes,
        written_ids={kind: of_kind.written for kind, of_kind in kinds.items() if of_kind.written},
        reading=reading,
    )


def load_json(path: Path, option: str) -> dict[str, Any]:
    """The object in the file, or an error that says which file, why, and which option named it."""
    was_enabled = gc.isenabled()
    gc.disable()  # parsing makes millions of objects and no cycle; looking for some takes two thirds of the time
    try:
        content = json.loads(read_regular(path))
    except FileNotFoundError:
        raise FileNotFoundError(no_file(path, option)) from None
    except IsADirectoryError:
        raise ValueError(
            f"'{path}' is a folder; {option}= wants an annotation file in COCO's JSON format"
        ) from None
    except ImageError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"'{path}' is not JSON ({one_line(error)}); {option}= wants an annotation file in COCO's JSON format"
        ) from None
    finally:
        if was_enabled:
            gc.enable()
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise ValueError(
            f"'{path}' is JSON but not COCO's: it has no list {' and no list '.join(map(repr, missing))}; "
            f"{option}= wants an object with the lists 'images', 'annotations' and 'categories'"
        )
    return content


def records(content: dict[str, Any], key: str, path: Path) -> Records:
    """The list under `key`, all of whose items are objects."""
    for row, item in enumerate(content[key]):
        if not isinstance(item, dict):
            raise ValueError(f"'{path}': {key}[{row}] is {item!r:.40}; wanted an object as COCO writes it")
    return content[key]


def column(rows: Records, field: str, key: str, path: Path) -> list[Any]:
    """One field of all records, which each of them must have."""
    try:
        return [row[field] for row in rows]
    except KeyError:
        row = next(i for i, record in enumerate(rows) if field not in record)
        raise ValueError(f"'{path}': {key}[{row}] has no '{field}', which COCO's format requires") from None


def declared_ids(rows: Records, key: str, path: Path) -> Ids:
    """The ids of all records."""
    ids = Ids.read(column(rows, "id", key, path), by_name=key == "categories")
    check_ids(ids.bad, "id", key, path)
    return ids


def naming(ids: Ids, annotations: Records, field: str, path: Path) -> np.ndarray:
    """(M,) int64: what a field of the annotations that names one of `ids` says."""
    numbers, bad = ids.find(column(annotations, field, "annotations", path))
    check_ids(bad, field, "annotations", path)
    return numbers


def check_ids(bad: dict[int, Any], field: str, key: str, path: Path) -> None:
    """Raises ValueError if there is an id that is neither a number nor a string."""
    for row, value in bad.items():
        raise ValueError(f"'{path}': {key}[{row}] has '{field}' {show(value)}; wanted an integer or a string")


def show(value: Any) -> str:
    """The beginning of a value, for messages."""
    try:
        return f"{value!r:.40}"
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        return f"a {type(value).__name__}"


def read_file_names(images: Records, path: Path) -> list[str]:
    """Names of all image files."""
    names = column(images, "file_name", "images", path)
    for row, name in enumerate(names):
        if not is_file_name(name):
            raise ValueError(
                f"'{path}': images[{row}] has 'file_name' {show(name)}; wanted the name of an image file"
            )
    return [str(name) for name in names]


def read_sizes(images: Records, file_names: list[str], store: ImageStore, notes: list[str]) -> np.ndarray:
    """(I, 2) int64 (height, width); of the file where a record has none that can be one."""
    sizes = np.array(
        [[to_integer(image.get(side)) or 0 for side in ("height", "width")] for image in images], np.int64
    ).reshape(-1, 2)
    is_none = (sizes < 1).any(axis=1) | (sizes > MAX_SIDE).any(axis=1)
    if (rows := np.flatnonzero(is_none)).size:
        sizes[rows] = image_sizes(store, [file_names[row] for row in rows])
        notes.append(
            f"{len(rows)} of {len(images)} images declare no height and width that can be one; theirs are taken from "
            f"the files ('{file_names[rows[0]]}')"
        )
    return sizes


def read_boxes(
    annotations: Records, images: np.ndarray, sizes: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, dict[int, str]]:
    """(M, 4) float64, and rows whose box would come from a polygon of an odd count of numbers.

    An annotation without a box gets the one around its mask. `images` (M,) and `sizes` are the split's.
    """
    written = [annotation.get("bbox") for annotation in annotations]
    boxes = to_boxes(written)
    missing = np.array(
        [
            box in (None, []) and bool(a.get("segmentation"))
            for box, a in zip(written, annotations, strict=True)
        ],
        bool,
    )
    rows, odd = np.flatnonzero(missing), {}
    if rows.size:
        masks = read_masks([annotations[row]["segmentation"] for row in rows], images[rows], sizes)
        for place, (row, mask) in enumerate(zip(rows.tolist(), masks.objects, strict=True)):
            if masks.faults[ODD_POLYGON][place]:
                odd[row] = "and its box would come from it"
            elif isinstance(mask, bytes):
                boxes[row] = coco_mask.toBbox({"size": sizes[images[row]].tolist(), "counts": mask})
            elif mask is not None:
                low, high = masks.bounds[place, :2], masks.bounds[place, 2:]
                boxes[row] = *low, *(high - low)
        found = np.isfinite(boxes[rows]).all(axis=1)
        if found.any():
            notes.append(
                f"{int(found.sum())} of {len(annotations)} annotations have no bbox; theirs are taken from their masks"
            )
    return boxes, odd


def read_crowds(annotations: Records) -> tuple[np.ndarray, dict[int, str]]:
    """(M,) bool, and the rows whose flag is neither true nor false with what it is."""
    flags = [to_flag(annotation.get("iscrowd")) for annotation in annotations]
    unclear = {
        row: f"iscrowd {show(annotations[row]['iscrowd'])}" for row, flag in enumerate(flags) if flag is None
    }
    return np.array([bool(flag) for flag in flags], bool), unclear


def read_areas(annotations: Records, boxes: np.ndarray) -> np.ndarray:
    """(M,) float64 as written; of the box where the file writes none, NaN where it writes no number."""
    with np.errstate(invalid="ignore", over="ignore"):
        of_boxes = (boxes[:, 2] * boxes[:, 3]).tolist()
    return np.array(
        [
            to_number(a["area"]) if "area" in a else area
            for a, area in zip(annotations, of_boxes, strict=True)
        ],
        np.float64,
    )


def read_categories(
    categories: Records, ids: np.ndarray, used: np.ndarray, path: Path, notes: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Category ids ascending, and the names in that order. `ids` are those of `categories`, `used` those of all
    annotations: of two categories of one name, one without objects is a group (as Roboflow writes) and left out."""
    if not categories:
        raise ValueError(f"'{path}' declares no categories; wanted at least one")
    written = column(categories, "name", "categories", path)
    for row, name in enumerate(written):
        if not isinstance(name, str | int | float):
            raise ValueError(f"'{path}': categories[{row}] has 'name' {show(name)}; wanted a name")
    order = np.argsort(ids, kind="stable")
    if (repeated := ids[order][1:][np.diff(ids[order]) == 0]).size:
        raise ValueError(f"'{path}' declares category id {repeated[0]} more than once; ids must be unique")
    names = [str(written[i]) for i in order]
    ids = ids[order]
    has_objects = np.isin(ids, used)
    kept = np.ones(len(ids), bool)
    for name, count in Counter(names).items():
        rows = [row for row, other in enumerate(names) if other == name]
        with_objects = [row for row in rows if has_objects[row]]
        if len(with_objects) > 1:
            raise ValueError(
                f"'{path}' declares {count} categories named '{name}'; rename all but one, or give their "
                "annotations one category_id"
            )
        for row in set(rows) - set(with_objects or rows[-1:]):
            kept[row] = False
            notes.append(
                f"category {ids[row]} '{name}', which has the name of another and no objects, is left out"
            )
    return ids[kept], [name for name, keep in zip(names, kept, strict=True) if keep]


class CocoSplit:
    """Images of one folder or archive with the annotations of one file."""

    def __init__(self, folder: Path, annotations: Annotations, reading: Reading = DEFAULT_READING):
        """`folder` may also be, or lead into, a tar or zip file (tasks/data/loading/storage.py)."""
        self.folder = folder
        self.annotations = annotations
        self.reading = reading
        self.store = open_store(folder, reading)

    def __len__(self) -> int:
        return len(self.annotations)

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright. Raises ValueError, naming the file, where it cannot be read or is
        not of the size that the annotations declare."""
        name = self.annotations.file_name(index)
        image = self.store.image(name)
        height, width = self.annotations.sizes[index].tolist()
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
        """The image decoded at a part of its size where its format allows it, no smaller than it is shown at."""
        image = self.store.image(self.annotations.file_name(index), shown_at)
        height, width = self.annotations.sizes[index].tolist()
        if image.shape[:2] not in {(-(-height // n), -(-width // n)) for n in (1, 2, 4, 8)}:
            return self.image(index)  # says what is wrong with it
        return image


def no_file(path: Path, option: str) -> str:
    """What is said of an annotation file that is not there."""
    return f"annotation file '{path}' does not exist; name it with {option}= (relative to data.root)"


def no_folder(path: Path, name: str) -> str:
    """What is said of an image folder that is not there."""
    return (
        f"image folder '{path}' does not exist; name it with data.{name}_images= (relative to data.root), or a tar or "
        "zip file"
    )


class CocoData:
    """COCO's layout of folders by default; any other by naming image folders and annotation files.

    Paths are relative to `root` unless absolute. A split is read when first asked for. `on_bad` says what
    happens to bad annotations and images (tasks/data/quality/policy.py), `check_images` how image files are looked at
    before that; `masks` reads segmentations too; `max_images` keeps only the first so many images of each
    split, to try something out. `split`, such as "0.8/0.1/0.1", parts the training images into train, val and test
    (tasks/data/formats/splitting.py), `group_pattern` keeps images together by their path. Image files are read up to
    `max_pixels`, in pictures of more than 8 bits with `value_range` as black and white, and with `allow_outside` also
    where a name leads out of the data set (`Reading`, tasks/data/loading/images.py).
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
        split: str | Sequence[float] | None = None,
        group_pattern: str | None = None,
        split_seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        value_range: Sequence[float] | None = None,
        allow_outside: bool = False,
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
        self.partition = parse_partition(split, group_pattern, split_seed)
        self.reading = reading_of(self.root, max_pixels, value_range, allow_outside)
        self.requires_masks = False
        self._splits: dict[str, CocoSplit] = {}
        self._check_named()

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
        if self.partition is not None:
            return self.partition.declares(name)
        images, annotation_file = self.paths[name]
        return images is not None and annotation_file is not None and (self.root / annotation_file).is_file()

    def expects(self, name: str) -> bool:
        """Whether the settings name such a split, be it there or not."""
        if self.partition is not None:
            return self.partition.declares(name)
        return None not in self.paths[name]

    def _check_named(self) -> None:
        """Raises FileNotFoundError for a file or folder that a setting names, and not its default, and that is not
        there."""
        for name, named in self.paths.items():
            if self.partition is not None and name != "train":
                continue
            for kind, value in zip(("images", "annotations"), named, strict=True):
                if value is None or value == DEFAULT_PATHS.get(f"{name}_{kind}"):
                    continue
                path = self.root / value
                if kind == "images" and not is_store(path):
                    raise FileNotFoundError(no_folder(path, name))
                if kind == "annotations" and not path.exists():
                    raise FileNotFoundError(no_file(path, f"data.{name}_annotations"))

    def raw(self, name: str, *, segmentations: bool = False) -> RawSplit:
        """The split as its annotation file says, unchecked; `segmentations` reads them even without `masks`.

        Raises FileNotFoundError or ValueError, with one sentence, for files that are missing or no COCO's.
        """
        file_of = name if self.partition is None else "train"
        images, annotation_file = self.paths[file_of]
        if images is None or annotation_file is None:
            raise ValueError(
                f"the data set has no {name} split; name it with data.{file_of}_images= and "
                f"data.{file_of}_annotations="
            )
        folder = self.root / images
        if not is_store(folder):
            raise FileNotFoundError(no_folder(folder, file_of))
        raw = read_coco_json(
            self.root / annotation_file,
            file_of,
            folder,
            masks=self.masks or segmentations,
            reading=self.reading,
        )
        if self.partition is not None:
            raw = self.partition.part(raw, name)
        if self.max_images is not None:
            raw = raw.select(np.arange(min(self.max_images, len(raw))))
        return raw

    def _read(self, name: SplitName) -> CocoSplit:
        images, annotation_file = self.paths[name if self.partition is None else "train"]
        if images is None or annotation_file is None:
            self.raw(name)  # says so
        assert images is not None and annotation_file is not None
        folder = self.root / images
        path = self.root / annotation_file
        files = {self.root / file for _, file in self.paths.values() if file is not None}
        annotations = cached(
            path,
            partial(usable_annotations, self, name, self.on_bad, self.check_images),
            choices={
                "split": name,
                "on_bad": self.on_bad,
                "check_images": self.check_images,
                "masks": self.masks,
                "requires_masks": self.requires_masks,
                "max_images": self.max_images,
                "partition": repr(self.partition),
                "images": {k: v for k, (v, _) in self.paths.items()},
                "reading": repr(self.reading),
            },
            beside=sorted(file for file in files - {path} if file.is_file()),
            is_true=lambda found: (
                not open_store(folder, self.reading).missing([found.file_name(i) for i in range(len(found))])
            ),
        )
        return CocoSplit(folder, annotations, self.reading)


DEFAULT_PATHS = {
    name: parameter.default
    for name, parameter in inspect.signature(CocoData).parameters.items()
    if name.endswith(("_images", "_annotations"))
}
"""COCO's own layout, by setting."""


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
