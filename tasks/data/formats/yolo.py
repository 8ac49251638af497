"""A data set in YOLO's layout: boxes and polygons in fractions of the image, as told by its data.yaml.

<root>/images/train/a.jpg  labels/train/a.txt        or        <root>/train/images/a.jpg  train/labels/a.txt
A line of labels is a class number and then cx, cy, width, height of a box or x, y, x, y, … of a polygon, all in
fractions of the image's sides. An image without a file of labels shows nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tasks.data.formats.object_files import ObjectFiles
from tasks.data.formats.raw import RawSplit
from tasks.data.loading.images import SUFFIXES
from tasks.data.loading.storage import in_archive, is_file, is_folder, open_store, read_file, read_lines
from tasks.data.quality.image_checks import CheckImages, image_size
from tasks.data.quality.policy import OnBad
from tasks.data.splits import SplitName


@dataclass
class YoloLabels:
    """What one file of labels says; N objects."""

    classes: list[int | str]
    """(N,) numbers, or what stands in the place of one."""
    boxes: np.ndarray
    """(N, 4) float64 x, y, width, height in fractions; NaN where the line is neither a box nor a polygon."""
    rings: list[list[float] | None]
    """(N,) polygons in fractions; None for a box alone."""


def read_data_yaml(path: Path) -> dict[str, Any]:
    """The mapping in data.yaml with its "names" as a list by class number.

    Raises FileNotFoundError or ValueError, naming the file, where it is not there or not of that kind.
    """
    try:
        content = yaml.safe_load(read_file(path).decode("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no '{path}', which says where the images of a YOLO data set are and names its classes; give "
            "the folder that holds it with data.root=, or its name with data.file="
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"'{path}' is no YAML that can be read ({reason}); correct it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"'{path}' numbers its names {sorted(names)[:8]}; wanted 0, 1, … without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"'{path}' has no 'names', a list of the classes in the order of their numbers; add it"
        )
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"'{path}' names a class twice: {', '.join(names)}; each needs a name of its own")
    return {**content, "names": names}


def list_images(base: Path, entry: Any, folder: Path, option: str) -> list[str]:
    """Images of what data.yaml says of a split: a folder, a text file of paths, or several, relative to `base`.

    The images' paths are relative to `folder`, or absolute where they lie outside. Raises FileNotFoundError or
    ValueError, naming `option`, where there are none.
    """
    files: list[str] = []
    for place in entry if isinstance(entry, list) else [entry]:
        path = base / str(place)
        if is_folder(path):
            found = (name for name in open_store(path).names() if Path(name).suffix.lower() in SUFFIXES)
            files += sorted(_relative(path / name, folder) for name in found)
        elif is_file(path):
            places = (
                path.parent / line if line.startswith("./") else base / line for line in read_lines(path)
            )
            files += [_relative(p, folder) for p in places]
        else:
            raise FileNotFoundError(
                f"'{path}', the place of {option} in data.yaml, does not exist; correct it there (relative to its "
                "'path', or to data.yaml itself)"
            )
    if not files:
        raise ValueError(f"{option} in data.yaml, '{entry}', holds no images; correct it there, or add some")
    return files


def label_file(image: Path) -> Path:
    """Where the labels of an image are: the last folder called images becomes labels.

    Those of an image in an archive are in the same archive, or beside it, as if the archive were a folder of its name
    or had been unpacked where it lies."""
    place = in_archive(image)
    if place is None:
        return _in_labels(image)
    archive, inner = place
    places = (image, archive.with_suffix("") / inner, archive.parent / inner)
    return next((path for path in map(_in_labels, places) if is_file(path)), _in_labels(image))


def _in_labels(image: Path) -> Path:
    parts = list(image.with_suffix(".txt").parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def read_labels(path: Path) -> YoloLabels:
    """What the file says; nothing where there is none. Raises ValueError for one that is no text."""
    labels = YoloLabels([], np.zeros((0, 4)), [])
    if not is_file(path):
        return labels
    try:
        lines = [line.split() for line in read_lines(path)]
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"labels '{path}' cannot be read ({error})") from None
    boxes = []
    for words in lines:
        labels.classes.append(int(words[0]) if words[0].isdigit() else words[0])
        try:
            values = [float(word) for word in words[1:]]
        except ValueError:
            values = []
        box, ring = [float("nan")] * 4, None
        if len(values) == 4:
            box = [values[0] - values[2] / 2, values[1] - values[3] / 2, values[2], values[3]]
        elif len(values) > 5:
            ring = values
            xs, ys = values[0::2], values[1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        boxes.append(box)
        labels.rings.append(ring)
    labels.boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return labels


def ring_area(ring: list[float]) -> float:
    """Area of a polygon; 0 for what is none."""
    if len(ring) % 2 or not np.isfinite(ring).all():
        return 0.0
    x, y = np.array(ring[0::2]), np.array(ring[1::2])
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


class YoloData(ObjectFiles):
    """Boxes, and with `masks` polygons, of the images that data.yaml names."""

    def __init__(
        self,
        root: str | Path,
        *,
        file: str = "data.yaml",
        on_bad: OnBad = "error",
        check_images: CheckImages = "headers",
        masks: bool = False,
        max_images: int | None = None,
        split: str | Sequence[float] | None = None,
        group_pattern: str | None = None,
        split_seed: int = 0,
    ):
        """`root` holds data.yaml, or the `file` of another name; what it names may lie in archives too. Its "path",
        where that is a folder here, is what "train", "val" and "test" in it are relative to; else its own folder is.
        The other settings are those of `ObjectFiles`.

        Raises:
            FileNotFoundError: there is no data.yaml.
            ValueError: it has no names, or a setting is none.
        """
        super().__init__(root, on_bad, check_images, masks, max_images, split, group_pattern, split_seed)
        self.content = read_data_yaml(self.root / file)
        base = self.root / str(self.content.get("path") or "")
        self.base = base if is_folder(base) else self.root

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(self.content["names"])

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the class numbers, which are the labels."""
        return np.arange(len(self.content["names"]))

    def has_files(self, name: SplitName) -> bool:
        return bool(self.content.get(name))

    def image_folder(self, name: SplitName) -> Path:
        """The split's own folder, where data.yaml names one."""
        place = self.content[self.files_of(name)]
        folder = self.base / str(place)
        return folder if not isinstance(place, list) and is_folder(folder) else self.base

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        if not self.content.get(name):
            raise ValueError(
                f"the data set has no {name} split; say where its images are in data.yaml: '{name}: …'"
            )
        folder = self.image_folder(name)
        files = list_images(self.base, self.content[name], folder, name)
        if self.partition is None:
            files = files[: self.max_images]  # before their labels are read
        labels: list[YoloLabels] = []
        unreadable: dict[int, str] = {}
        for index, file in enumerate(files):
            try:
                labels.append(read_labels(label_file(folder / file)))
            except ValueError as error:
                unreadable[index] = str(error)
                labels.append(YoloLabels([], np.zeros((0, 4)), []))
        sizes = [image_size(folder / file) for file in files]
        counts = [len(item.classes) for item in labels]
        classes = [number for item in labels for number in item.classes]
        known = range(len(self.content["names"]))
        scale = np.tile(np.array(sizes, np.int64)[:, ::-1], 2).astype(np.float64).repeat(counts, axis=0)
        scale[scale == 0] = 1  # of an image that cannot be read; it is told of for that
        boxes = np.concatenate([item.boxes for item in labels]) * scale
        rings = [ring for item in labels for ring in item.rings]
        polygons: list[Any] = [
            [] if ring is None else [[value * scale[row, i % 2] for i, value in enumerate(ring)]]
            for row, ring in enumerate(rings)
        ]
        areas = [
            ring_area(polygon[0]) if polygon else box[2] * box[3]
            for box, polygon in zip(boxes, polygons, strict=True)
        ]
        return RawSplit.without_ids(
            name,
            f"{self.base}/{self.content[name]}",
            folder,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_names=files,
            sizes=sizes,
            counts=counts,
            categories=[str(number) for number in classes],
            labels=[n if isinstance(n, int) and n in known else -1 for n in classes],
            boxes=boxes,
            areas=np.array(areas),
            segmentations=polygons if masks else None,
            is_normalised=True,
            unreadable=unreadable,
        )
