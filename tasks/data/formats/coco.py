"""A data set in COCO's format: image folders and JSON annotation files below one root."""

import contextlib
import inspect
import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.segmentations import unwrap
from tasks.data.formats.file_names import fit_file_names, is_file_name, path_of_address
from tasks.data.formats.object_files import ObjectOptions
from tasks.data.formats.raw import RawSplit, positions
from tasks.data.formats.split_files import SplitFiles, no_annotations
from tasks.data.formats.values import MAX_SIDE, Ids, to_boxes, to_flag, to_integer, to_number
from tasks.data.loading.images import DEFAULT_READING, ImageError, Reading, one_line
from tasks.data.loading.storage import ImageStorage, open_images, read_file
from tasks.data.progress import step, without_collection
from tasks.data.quality.image_checks import image_sizes
from tasks.data.quality.issues import BAD_CROWD, ODD_POLYGON
from tasks.data.quality.segmentation_checks import read_masks
from tasks.data.splits import SplitName

LARGE_FILE = 20_000_000
"""Bytes of annotations, of which reading them takes long enough to be shown."""
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
    store, notes = open_images(folder, reading), []
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
    boxes, issues = read_boxes(annotations, rows, sizes, notes)
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
        row_issues={issue: found for issue, found in ((BAD_CROWD, unclear), (ODD_POLYGON, issues)) if found},
        notes=notes,
        written_ids={kind: of_kind.written for kind, of_kind in kinds.items() if of_kind.written},
        reading=reading,
    )


def load_json(path: Path, option: str) -> dict[str, Any]:
    """The object in the file, or an error that says which file, why, and which option named it."""
    size = path.stat().st_size if path.is_file() else 0
    what = f"reading {path.name}, {size / 1e6:.0f} MB"
    try:
        with without_collection():
            if size >= LARGE_FILE:
                step(what, 0, 10)
            content = json.loads(read_file(path))
            if size >= LARGE_FILE:
                step(what, 10, 10)
    except FileNotFoundError:
        raise FileNotFoundError(no_annotations(path, option)) from None
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
    for row, item in enumerate(content[key]) if set(map(type, content[key])) - {dict} else ():
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
    """Names of all image files; of the last folder and file of `coco_url` where there is no other, as in LVIS."""
    if images and all(
        "file_name" not in image and isinstance(image.get("coco_url"), str) for image in images
    ):
        return ["/".join(PurePosixPath(path_of_address(image["coco_url"])).parts[-2:]) for image in images]
    names = column(images, "file_name", "images", path)
    for row, name in enumerate(names):
        if not is_file_name(name):
            raise ValueError(
                f"'{path}': images[{row}] has 'file_name' {show(name)}; wanted the name of an image file"
            )
    return [str(name) for name in names]


def read_sizes(images: Records, file_names: list[str], store: ImageStorage, notes: list[str]) -> np.ndarray:
    """(I, 2) int64 (height, width); of the file where a record has none that can be one."""
    columns: list[list[Any]] = [[image.get(side) for image in images] for side in ("height", "width")]
    for place, column in enumerate(columns):
        if not set(map(type, column)) <= {int}:
            column = [to_integer(side) or 0 for side in column]
        columns[place] = [max(0, min(side, MAX_SIDE + 1)) for side in column]
    sizes = np.array(columns, np.int64).T.copy()
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
    empty = [row for row, box in enumerate(written) if box is None or box == []]
    rows = np.array([row for row in empty if annotations[row].get("segmentation")], np.int64)
    odd: dict[int, str] = {}
    if rows.size:
        masks = read_masks([annotations[row]["segmentation"] for row in rows], images[rows], sizes)
        for place, (row, mask) in enumerate(zip(rows.tolist(), masks.objects, strict=True)):
            if masks.issues[ODD_POLYGON][place]:
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
    values = [annotation.get("iscrowd") for annotation in annotations]
    if all(type(value) is int for value in values) and set(values) <= {
        0,
        1,
    }:  # the usual case, five times faster
        return np.array(values, bool), {}
    flags = list(map(to_flag, values))
    unclear = {
        row: f"iscrowd {show(annotations[row]['iscrowd'])}" for row, flag in enumerate(flags) if flag is None
    }
    return np.array([bool(flag) for flag in flags], bool), unclear


def read_areas(annotations: Records, boxes: np.ndarray) -> np.ndarray:
    """(M,) float64 as written; of the box where the file writes none, NaN where it writes no number."""
    values = [annotation.get("area") for annotation in annotations]
    if set(map(type, values)) <= {int, float}:
        with contextlib.suppress(OverflowError):  # of an integer beyond any float
            return np.array(values, np.float64)
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
    for row, name in enumerate(names):
        if kept[row] and not has_objects[row] and is_group(categories, name):
            kept[row] = False
            notes.append(
                f"category {ids[row]} '{name}', which is the group of all others and has no objects, is left out"
            )
    return ids[kept], [name for name, keep in zip(names, kept, strict=True) if keep]


def is_group(categories: Records, name: str) -> bool:
    """Whether the category of that name is what all others are kinds of, as Roboflow writes one with id 0."""
    own = next(c for c in categories if str(c["name"]) == name)
    others = [c.get("supercategory") for c in categories if c is not own]
    return bool(others) and own.get("supercategory") in (None, "", "none") and all(o == name for o in others)


class CocoData(SplitFiles):
    """COCO's layout of folders by default; any other by naming image folders and annotation files.

    Places and `options` are those of `SplitFiles`. Making one raises FileNotFoundError for a file or folder that a
    setting names, and not its default, and that is not there.
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
        **options: Unpack[ObjectOptions],
    ):
        super().__init__(
            root,
            train_images=train_images,
            train_annotations=train_annotations,
            val_images=val_images,
            val_annotations=val_annotations,
            test_images=test_images,
            test_annotations=test_annotations,
            **options,
        )

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        folder, annotation_file = self.places(name)
        return read_coco_json(annotation_file, name, folder, masks=masks, reading=self.reading)


CocoData.defaults = {
    name: parameter.default
    for name, parameter in inspect.signature(CocoData).parameters.items()
    if name.endswith(("_images", "_annotations"))
}
