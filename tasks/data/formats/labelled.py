"""`LabelledFiles`: formats that say, image by image, which objects it shows, by the names of their classes.

A reader of such a format gives `LabelledImage`s; columns, classes and sizes follow from them here.
"""

import json
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack
from xml.etree import ElementTree

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.segmentations import scaled
from tasks.data.formats.file_names import fit_file_names, pair_names
from tasks.data.formats.object_files import ObjectOptions
from tasks.data.formats.raw import RawSplit
from tasks.data.formats.split_files import SplitFiles
from tasks.data.formats.values import NAN, is_text, to_number
from tasks.data.loading.images import MAX_PIXELS, ImageError, Reading, one_line
from tasks.data.loading.storage import MAX_TEXT_BYTES, ImageStorage, image_names, open_images, read_file
from tasks.data.quality.image_checks import image_sizes
from tasks.data.quality.issues import Issue
from tasks.data.splits import SplitName

NUM_CORNERS = 64
"""Of the polygon that stands for an ellipse."""


@dataclass(slots=True)
class LabelledObject:
    """One object as its file says; in pixels, or in fractions of the image's sides where `LabelledImage` says so."""

    name: str
    """Of its class; "" where there is none."""
    box: Sequence[float]
    """x, y, width, height; NaN where no numbers are."""
    mask: Any = None
    """Polygons, or run lengths in pixels, as COCO writes them."""
    is_crowd: bool = False
    issue: tuple[Issue, str] | None = None
    """What is wrong with it that shows only in the file's own words, and these."""


@dataclass
class LabelledImage:
    """One image as its file says."""

    file: str
    size: tuple[int, int] = (0, 0)
    """(height, width), which is read from the image where it is zero."""
    objects: list[LabelledObject] = field(default_factory=list)
    in_fractions: bool = False
    unreadable: str = ""
    """Why its annotation cannot be read."""


@dataclass
class Labels:
    """What the annotations of one split say."""

    images: list[LabelledImage] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """In the format's own order, where it declares them."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What is no object, by how often."""
    notes: list[str] = field(default_factory=list)
    looked_for: str = ""
    """As in `RawSplit`."""


class LabelledOptions(ObjectOptions, total=False):
    """The settings of `SplitFiles`."""

    train_images: str | None
    train_annotations: str | None
    val_images: str | None
    val_annotations: str | None
    test_images: str | None
    test_annotations: str | None


class LabelledFiles(SplitFiles):
    """Objects by the names of their classes."""

    crowds = "crowds"
    """What the format calls objects that are no training target."""

    def __init__(
        self, root: str | Path, *, classes: Sequence[str] | None = None, **options: Unpack[LabelledOptions]
    ):
        """
        Args:
            root: the folder, or the tar or zip file, that all places are relative to.
            classes: names by label; None takes those that the files declare, else those of all objects, sorted.
            options: those of `SplitFiles`.
        """
        super().__init__(root, **options)
        self.classes = None if classes is None else [str(name) for name in classes]
        self._labels: dict[SplitName, Labels] = {}

    @abstractmethod
    def parse(self, annotations: Path, storage: ImageStorage) -> Labels:
        """What the file or folder `annotations` says of the images whose files are in `storage`."""

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        labels = self._read(self.files_of(name))
        folder, annotations = self.places(name)
        class_names, notes = self._class_names(), list(labels.notes)
        if not labels.images:
            raise ValueError(f"'{annotations}' names no images; wanted at least one")
        files = [image.file for image in labels.images]
        files = fit_file_names(files, open_images(folder, self.reading), notes)
        if labels.left_out:
            what = ", ".join(f"{count} {kind}" for kind, count in labels.left_out.items())
            notes.append(f"what is no object with a box is left out: {what}")
        return to_raw(
            name,
            str(annotations),
            folder,
            labels.images,
            files,
            class_names=class_names,
            category_ids=np.arange(1, len(class_names) + 1),
            masks=masks,
            reading=self.reading,
            notes=notes,
            crowds=self.crowds,
            looked_for=labels.looked_for,
        )

    def _read(self, name: SplitName) -> Labels:
        if name not in self._labels:
            folder, annotations = self.places(name)
            self._labels[name] = self.parse(annotations, open_images(folder, self.reading))
        return self._labels[name]

    def _class_names(self) -> list[str]:
        """By label, the same for all splits."""
        if self.classes is not None:
            return self.classes
        read = [self._read(name) for name in self.with_files_of_their_own()]
        declared = list(dict.fromkeys(name for labels in read for name in labels.classes))
        used = {o.name for labels in read for image in labels.images for o in image.objects if o.name}
        return declared + sorted(used - set(declared))


def file_by_file(
    labels: Labels, annotations: Path, store: ImageStorage, ending: str, storage: ImageStorage
) -> Iterator[tuple[Path, LabelledImage, bool]]:
    """Each file of labels with this ending in the folder `annotations`, which `store` has; the image of its name in
    `storage`, which is added to `labels`; and whether there is such an image."""
    files = [name for name in store.names() if name.lower().endswith(ending)]
    image_of, shared = pair_names(files, image_names(storage))
    for file in files:
        other = f"{os.path.splitext(file)[0]}.jpg"
        labels.images.append(LabelledImage(image_of.get(file, other), unreadable=shared.get(file, "")))
        yield annotations / file, labels.images[-1], file in image_of
    if not files:
        labels.looked_for = f"there is no {ending[1:].upper()} file in '{annotations}'"


def to_raw(
    name: str,
    source: str,
    folder: Path,
    images: Sequence[LabelledImage],
    files: list[str],
    *,
    class_names: list[str],
    category_ids: np.ndarray,
    masks: bool,
    reading: Reading,
    label_of: Mapping[str, int] | None = None,
    **columns: Any,
) -> RawSplit:
    """The columns of a split of these images, whose `files` are in `folder`. `label_of` is by what stands for a class
    in the annotations, None where that is its name; other `columns` are as in `RawSplit`."""
    sizes = np.array([image.size for image in images], np.int64).reshape(-1, 2)
    if (unknown := np.flatnonzero((sizes < 1).any(axis=1))).size:
        sizes[unknown] = image_sizes(open_images(folder, reading), [files[i] for i in unknown.tolist()])
    counts = [len(image.objects) for image in images]
    rows = np.repeat(np.arange(len(files)), counts)
    objects = [o for image in images for o in image.objects]
    is_fraction = np.array([image.in_fractions for image in images], bool)
    scale = np.where(is_fraction[rows, None], np.tile(sizes[rows, ::-1].clip(1), 2), 1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = np.array([o.box for o in objects], np.float64).reshape(-1, 4) * scale
        areas = boxes[:, 2:].prod(axis=1)
    shapes = [
        scaled(o.mask, *of_row) if isinstance(o.mask, list) else o.mask
        for o, of_row in zip(objects, scale[:, :2].tolist(), strict=True)
    ]
    for row, shape in enumerate(shapes):
        if (area := mask_area(shape)) > 0:
            areas[row] = area
    if label_of is None:
        label_of = {class_name: label for label, class_name in enumerate(class_names)}
    issues: dict[Issue, dict[int, str]] = {}
    for row, o in enumerate(objects):
        if o.issue is not None:
            issues.setdefault(o.issue[0], {})[row] = o.issue[1]
    return RawSplit.without_ids(
        name,
        source,
        folder,
        class_names=class_names,
        category_ids=category_ids,
        file_names=files,
        sizes=sizes,
        counts=counts,
        categories=[o.name for o in objects],
        labels=[label_of.get(o.name, -1) for o in objects],
        boxes=boxes,
        areas=areas,
        is_crowd=np.array([o.is_crowd for o in objects], bool),
        segmentations=[shape or [] for shape in shapes] if masks else None,
        is_normalised=bool(len(is_fraction)) and bool(is_fraction.all()),
        unreadable={i: image.unreadable for i, image in enumerate(images) if image.unreadable},
        row_issues=issues,
        reading=reading,
        **columns,
    )


def mask_area(mask: Any) -> float:
    """In pixels; 0 for no mask, and for one that is none."""
    if isinstance(mask, dict):
        runs: Any = mask
        return float(coco_mask.area(runs))
    if not isinstance(mask, list):
        return 0.0
    return sum(ring_area(ring) for ring in mask)


def ring_area(ring: Sequence[float]) -> float:
    """Area of a polygon; 0 for what is none."""
    if len(ring) < 6 or len(ring) % 2 or not np.isfinite(ring).all():
        return 0.0
    x, y = np.array(ring[0::2]), np.array(ring[1::2])
    with np.errstate(over="ignore", invalid="ignore"):
        area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area if np.isfinite(area) else 0.0


def ring_of(points: Sequence[Sequence[Any]]) -> list[float]:
    """The ring of points of two numbers each; NaN in the place of any other."""
    return [v for p in points for v in ([to_number(p[0]), to_number(p[1])] if len(p) == 2 else [NAN, NAN])]


def box_around(rings: Sequence[Sequence[float]]) -> list[float]:
    """x, y, width, height of polygons; NaN where there are no points, or one is none."""
    xs = [v for ring in rings for v in ring[0::2]]
    ys = [v for ring in rings for v in ring[1::2]]
    if not xs or not ys or not np.isfinite([*xs, *ys]).all():
        return [NAN] * 4
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def box_between(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """x, y, width, height of the box with two corners in any order."""
    return [min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)]


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """The polygon of an ellipse that is turned clockwise, as y points down."""
    angles = np.arange(NUM_CORNERS) * (2 * np.pi / NUM_CORNERS)
    with np.errstate(invalid="ignore", over="ignore"):
        points = np.stack([rx * np.cos(angles), ry * np.sin(angles)], axis=1)
    return turned(points, (cx, cy), degrees)


def turned(points: np.ndarray, centre: tuple[float, float], degrees: float) -> list[float]:
    """The ring of points (N, 2) around (0, 0), turned clockwise as y points down and moved to `centre`."""
    with np.errstate(invalid="ignore", over="ignore"):
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        return (points @ turn + centre).reshape(-1).tolist()


def pasted_mask(
    bitmap: np.ndarray, left: int, top: int, size: tuple[int, int]
) -> tuple[list[float], dict[str, Any] | None]:
    """The box and the run lengths of a bitmap (h, w) whose corner is at (left, top) in an image of `size`; NaN and None
    where nothing of it is inside."""
    height, width = size
    rows = slice(max(0, -top), max(0, min(bitmap.shape[0], height - top)))
    columns = slice(max(0, -left), max(0, min(bitmap.shape[1], width - left)))
    inside = bitmap[rows, columns] > 0
    if not inside.any() or height * width > MAX_PIXELS:
        return [NAN] * 4, None
    left, top = left + columns.start, top + rows.start
    strip = np.zeros((height, inside.shape[1]), bool)  # the columns that it touches, not the whole image
    strip[top : top + len(inside)] = inside
    changes = np.flatnonzero(np.diff(np.concatenate([[False], strip.ravel(order="F")])))
    counts = np.diff(np.concatenate([[0], left * height + changes, [height * width]])).tolist()
    runs: Any = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return coco_mask.toBbox(runs).tolist(), runs


def parse_json(path: Path, max_bytes: int | None = MAX_TEXT_BYTES) -> Any:
    """What the JSON file says. Raises FileNotFoundError, or ValueError which names it, where it cannot be read."""
    try:
        return json.loads(read_file(path, max_bytes))
    except (FileNotFoundError, ImageError):
        raise
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"'{path}' is not JSON ({one_line(error)})") from None


def parse_xml(path: Path, root_tag: str, whose: str, max_bytes: int = MAX_TEXT_BYTES) -> ElementTree.Element:
    """The root of the XML file, whose tag must be `root_tag`, as in `whose` files. Namespaces are left out.

    Raises FileNotFoundError, or ValueError which names the file, where it is none."""
    try:
        content = ElementTree.fromstring(read_file(path, max_bytes))
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation '{path}' is no XML that can be read ({error})") from None
    except (FileNotFoundError, ImageError):
        raise
    except OSError as error:
        raise ValueError(f"annotation '{path}' cannot be read ({error.strerror or error})") from None
    except (
        LookupError,
        ValueError,
    ) as error:  # an encoding that Python does not know, or one that does not fit
        raise ValueError(
            f"annotation '{path}' is in an encoding that cannot be read ({error}); save it as UTF-8"
        ) from None
    for element in content.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    if content.tag != root_tag:
        raise ValueError(
            f"annotation '{path}' is XML but not {whose}: it begins with <{content.tag:.40}>, wanted <{root_tag}>"
        )
    return content


def usable_name(value: Any) -> str:
    """The name of a class; "" for what is none, also text with half of a surrogate pair."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    name = str(value).strip()
    return name if is_text(name) else ""
