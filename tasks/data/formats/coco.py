"""A data set in COCO's format: image folders and JSON annotation files below one root."""

import gc
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.formats.cache import cached
from tasks.data.formats.object_files import ObjectFiles
from tasks.data.formats.raw import RawSplit, positions
from tasks.data.loading.storage import is_store, open_store
from tasks.data.quality.image_checks import CheckImages
from tasks.data.quality.policy import OnBad, usable_annotations
from tasks.data.splits import SplitName

Records = list[dict[str, Any]]


def read_coco_json(path: Path, name: str, folder: Path, *, masks: bool) -> RawSplit:
    """The split called `name` as the file says, unchecked; segmentations only if `masks`. `folder` is its images'.

    Raises FileNotFoundError for a missing file, ValueError for one that is not COCO's JSON.
    """
    content = load_json(path, f"data.{name}_annotations")
    images, annotations, categories = (
        records(content, key, path) for key in ("images", "annotations", "categories")
    )
    category_ids, class_names = read_categories(categories, path)
    image_ids = integers(images, "id", "images", path)
    if len(image_ids) == 0:
        raise ValueError(f"'{path}' lists no images; wanted at least one")
    sizes = np.stack([integers(images, side, "images", path) for side in ("height", "width")], axis=1)
    if (empty := np.flatnonzero((sizes <= 0).any(axis=1))).size:
        height, width = sizes[empty[0]]
        raise ValueError(
            f"'{path}' declares image id {image_ids[empty[0]]} with height {height} and width {width}"
        )
    written_images = integers(annotations, "image_id", "annotations", path)
    written_categories = integers(annotations, "category_id", "annotations", path)
    boxes = numbers([annotation.get("bbox") for annotation in annotations])
    return RawSplit(
        name=name,
        source=str(path),
        folder=folder,
        folder_option=f"data.{name}_images",
        class_names=class_names,
        category_ids=category_ids,
        image_ids=image_ids,
        file_names=[str(value) for value in column(images, "file_name", "images", path)],
        sizes=sizes,
        ids=integers(annotations, "id", "annotations", path),
        written_images=written_images,
        written_categories=written_categories,
        images=positions(image_ids, written_images),
        labels=positions(category_ids, written_categories),
        boxes=boxes,
        areas=read_areas(annotations, boxes),
        is_crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool),
        segmentations=[annotation.get("segmentation") for annotation in annotations] if masks else None,
    )


def load_json(path: Path, option: str) -> dict[str, Any]:
    """The object in the file, or an error that says which file, why, and which option named it."""
    was_enabled = gc.isenabled()
    gc.disable()  # parsing makes millions of objects and no cycle; looking for some takes two thirds of the time
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"annotation file '{path}' does not exist; name it with {option}= (relative to data.root)"
        ) from None
    except IsADirectoryError:
        raise ValueError(
            f"'{path}' is a folder; {option}= wants an annotation file in COCO's JSON format"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' is not JSON ({error}); {option}= wants an annotation file in COCO's JSON format"
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


def integers(rows: Records, field: str, key: str, path: Path) -> np.ndarray:
    """(len(rows),) int64 of one field of all records."""
    values = column(rows, field, key, path)
    for row, value in enumerate(values):
        if type(value) is not int or abs(value) >= 2**63:
            raise ValueError(f"'{path}': {key}[{row}] has '{field}' {value!r:.40}; wanted an integer")
    return np.array(values, np.int64)


def numbers(values: list[Any]) -> np.ndarray:
    """(len(values), 4) float64 of lists of four numbers each; NaN where an item is no such thing."""
    try:
        return np.array(values, np.float64).reshape(len(values), 4)
    except (ValueError, TypeError):
        is_box = [
            isinstance(v, list) and len(v) == 4 and all(isinstance(x, int | float) for x in v) for v in values
        ]
        return np.array([v if ok else [np.nan] * 4 for v, ok in zip(values, is_box, strict=True)], np.float64)


def read_areas(annotations: Records, boxes: np.ndarray) -> np.ndarray:
    """(M,) float64 as written; of the box where the file writes none, NaN where it writes no number."""
    written = (
        annotation.get("area", area)
        for annotation, area in zip(annotations, boxes[:, 2] * boxes[:, 3], strict=True)
    )
    return np.array([a if isinstance(a, int | float) else np.nan for a in written], np.float64)


def read_categories(categories: Records, path: Path) -> tuple[np.ndarray, list[str]]:
    """Category ids ascending, and the names in that order."""
    if not categories:
        raise ValueError(f"'{path}' declares no categories; wanted at least one")
    ids = integers(categories, "id", "categories", path)
    names = column(categories, "name", "categories", path)
    order = np.argsort(ids, kind="stable")
    if (repeated := ids[order][1:][np.diff(ids[order]) == 0]).size:
        raise ValueError(f"'{path}' declares category id {repeated[0]} more than once; ids must be unique")
    names = [str(names[i]) for i in order]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"'{path}' declares {count} categories named '{name}'; rename all but one, or give their "
            "annotations one category_id"
        )
    return ids[order], names


class CocoData(ObjectFiles):
    """COCO's layout of folders by default; any other by naming image folders and annotation files.

    Paths are relative to `root` unless absolute; `split` and what follows it is that of `ObjectFiles`.
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
    ):
        super().__init__(root, on_bad, check_images, masks, max_images, split, group_pattern, split_seed)
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"data.root={root} does not exist or is no folder; wanted the folder that holds the images "
                "and annotation files of a COCO data set"
            )
        self.paths: dict[SplitName, tuple[str | None, str | None]] = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
            "test": (test_images, test_annotations),
        }

    def has_files(self, name: SplitName) -> bool:
        images, annotation_file = self.paths[name]
        return images is not None and annotation_file is not None and (self.root / annotation_file).is_file()

    def image_folder(self, name: SplitName) -> Path:
        return self._places(name)[0]

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        folder, annotation_file = self._places(name)
        return read_coco_json(annotation_file, name, folder, masks=masks)

    def usable(self, name: SplitName) -> Annotations:
        """The annotations, from the cache where they are in there."""
        folder, annotation_file = self._places(name)
        files = {self.root / file for _, file in self.paths.values() if file is not None}
        return cached(
            annotation_file,
            partial(usable_annotations, self, name, self.on_bad, self.check_images),
            choices={
                "split": name,
                "on_bad": self.on_bad,
                "check_images": self.check_images,
                "masks": self.masks,
                "max_images": self.max_images,
                "partition": repr(self.partition),
                "images": {k: v for k, (v, _) in self.paths.items()},
            },
            beside=sorted(file for file in files if file.is_file()),
            is_true=lambda found: (
                not open_store(folder).missing([file.decode() for file in found.file_names.tolist()])
            ),
        )

    def _places(self, name: SplitName) -> tuple[Path, Path]:
        """The folder of the images of a split, and the annotation file that they are in."""
        file_of = self.files_of(name)
        images, annotation_file = self.paths[file_of]
        if images is None or annotation_file is None:
            raise ValueError(
                f"the data set has no {name} split; name it with data.{file_of}_images= and "
                f"data.{file_of}_annotations="
            )
        folder = self.root / images
        if not is_store(folder):
            raise FileNotFoundError(
                f"image folder '{folder}' does not exist; name it with data.{file_of}_images= (relative to "
                "data.root), or a tar or zip file"
            )
        return folder, self.root / annotation_file
