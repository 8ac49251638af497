"""A data set in COCO's format: image folders and JSON annotation files below one root."""

import gc
import json
from collections import Counter
from collections.abc import Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from tasks.data.annotations.class_maps import PaintedClassMaps
from tasks.data.annotations.objects import Annotations
from tasks.data.formats.cache import cached
from tasks.data.formats.raw import RawSplit, positions
from tasks.data.formats.splitting import parse_partition
from tasks.data.loading.storage import ShownAt, is_store, open_store
from tasks.data.quality.image_checks import CheckImages, check_check_images
from tasks.data.quality.policy import OnBad, check_on_bad, usable_annotations
from tasks.data.sources import SplitName

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


class CocoSplit:
    """Images of one folder or archive with the annotations of one file."""

    def __init__(self, folder: Path, annotations: Annotations):
        """`folder` may also be, or lead into, a tar or zip file (tasks/data/loading/storage.py)."""
        self.folder = folder
        self.annotations = annotations
        self.store = open_store(folder)

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


class CocoData:
    """COCO's layout of folders by default; any other by naming image folders and annotation files.

    Paths are relative to `root` unless absolute. A split is read when first asked for. `on_bad` says what
    happens to bad annotations and images (tasks/data/quality/policy.py), `check_images` how image files are looked at
    before that; `masks` reads segmentations too; `max_images` keeps only the first so many images of each
    split, to try something out. `split`, such as "0.8/0.1/0.1", parts the training images into train, val and test
    (tasks/data/formats/splitting.py), `group_pattern` keeps images together by their path.
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
        if self.partition is not None:
            return self.partition.declares(name)
        images, annotation_file = self.paths[name]
        return images is not None and annotation_file is not None and (self.root / annotation_file).is_file()

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
            raise FileNotFoundError(
                f"image folder '{folder}' does not exist; name it with data.{file_of}_images= (relative to "
                "data.root), or a tar or zip file"
            )
        raw = read_coco_json(self.root / annotation_file, file_of, folder, masks=self.masks or segmentations)
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
        files = {self.root / file for _, file in self.paths.values() if file is not None}
        annotations = cached(
            self.root / annotation_file,
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
        return CocoSplit(folder, annotations)


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
