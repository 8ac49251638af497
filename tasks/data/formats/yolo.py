"""A data set in YOLO's layout: boxes and polygons in fractions of the image, as told by its data.yaml.

<root>/images/train/a.jpg  labels/train/a.txt        or        <root>/train/images/a.jpg  train/labels/a.txt
A line of labels is a class number and then cx, cy, width, height of a box or x, y, x, y, … of a polygon, all in
fractions of the image's sides. An image without a file of labels shows nothing. With `kpt_shape: [N, D]` in data.yaml
(pose) a line is a class number, the box, and N times D numbers of key points, which are left out.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import numpy as np
import yaml

from tasks.data.formats.file_names import check_inside, fit_file_names, is_file_name
from tasks.data.formats.labelled import ring_area
from tasks.data.formats.object_files import MadeOf, ObjectFiles, ObjectOptions
from tasks.data.formats.raw import RawSplit
from tasks.data.formats.values import to_integer, to_number
from tasks.data.loading.images import SUFFIXES
from tasks.data.loading.storage import (
    ImageStorage,
    decode_text,
    in_archive,
    is_file,
    is_folder,
    open_images,
    read_file,
    read_lines,
)
from tasks.data.quality.image_checks import image_sizes
from tasks.data.quality.issues import ODD_POLYGON, WRONG_COLUMNS, Issue
from tasks.data.splits import SPLITS, SplitName

MAX_YAML_BYTES = 2**20
"""Of a data.yaml; one of a thousand classes has a fiftieth of it."""
UNREADABLE_YAML = (
    yaml.YAMLError,
    ValueError,
    RecursionError,
    TypeError,
    AttributeError,
    OverflowError,
    OSError,
)
"""What PyYAML raises over what is none: also its constructors of dates and numbers."""


@dataclass
class YoloLabels:
    """What one file of labels says; N objects."""

    classes: list[int | str]
    """(N,) numbers, or what stands in the place of one."""
    boxes: np.ndarray
    """(N, 4) float64 x, y, width, height in fractions; NaN where the line is neither a box nor a polygon."""
    rings: list[list[float] | None]
    """(N,) polygons in fractions; None for a box alone."""
    issues: dict[Issue, dict[int, str]] = field(default_factory=dict)
    """Lines that are neither, by index, and why."""


class DataYamlLoader(yaml.SafeLoader):
    """Plain YAML without aliases of lists and mappings: some hundred bytes of those stand for more values than fit
    into any memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node; raises YAMLError for an alias of anything but a single value."""
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("an alias of a list or a mapping, which is not read: write it out")
        return node


DataYamlLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
"""Nothing and text alone: classes called no, 1.10 or 010 would otherwise be False, 1.1 and 8."""


def read_data_yaml(path: Path) -> dict[str, Any]:
    """The mapping in data.yaml with its "names" as a list by class number.

    Raises FileNotFoundError or ValueError, naming the file, where it is not there or not of that kind.
    """
    try:
        text = decode_text(read_file(path, MAX_YAML_BYTES), path)
        content = yaml.load(text, DataYamlLoader)  # a SafeLoader
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no '{path}', which says where the images of a YOLO data set are and names its classes; give "
            "the folder that holds it with data.root=, or its name with data.file="
        ) from None
    except IsADirectoryError:
        raise ValueError(f"'{path}' is a folder; data.file= wants the data.yaml of a YOLO data set") from None
    except UNREADABLE_YAML as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"'{path}' is no YAML that can be read ({reason}); correct it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        numbers = {to_integer(number): name for number, name in names.items()}
        if set(numbers) != set(range(len(names))):
            raise ValueError(f"'{path}' numbers its names {[*numbers][:8]}; wanted 0, 1, … without gaps")
        names = [numbers[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"'{path}' has no 'names', a list of the classes in the order of their numbers; add it"
        )
    if not all(isinstance(name, str | int | float) for name in names):
        raise ValueError(f"'{path}' has 'names' that are no names; wanted a list of texts")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"'{path}' names a class twice: {', '.join(names)}; each needs a name of its own")
    return {**content, "names": names, "kpt_shape": key_points(content.get("kpt_shape"), path)}


def key_points(shape: Any, path: Path) -> int:
    """How many numbers the key points of an object are, by `kpt_shape`: 0 without any. ValueError for no such shape."""
    if shape is None:
        return 0
    sides = [to_integer(side) for side in shape] if isinstance(shape, list) else []
    if len(sides) != 2 or None in sides or not 1 <= (sides[0] or 0) <= 10_000 or sides[1] not in (2, 3):
        raise ValueError(
            f"'{path}' has kpt_shape {shape!s:.40}; wanted the number of key points and 2 or 3 numbers for each, such "
            "as [17, 3]"
        )
    return (sides[0] or 0) * (sides[1] or 0)


def find_place(base: Path, place: Any) -> Path:
    """Where a place that data.yaml names is. Roboflow writes `../train/images` for the folder train/images beside its
    data.yaml: where there is nothing, the path without its leading `..` counts."""
    text = str(place)
    path = base / text
    if is_folder(path) or is_file(path):
        return path
    for spelled in dict.fromkeys((text, text.replace("\\", "/"))):
        parts = [part for part in PurePosixPath(spelled).parts if part not in ("..", "/")]
        inside = base.joinpath(*parts)
        if parts and (is_folder(inside) or is_file(inside)):
            return inside
    return path


def list_images(
    base: Path,
    entry: Any,
    folder: Path,
    option: str,
    store: ImageStorage,
    root: ImageStorage,
    notes: list[str],
) -> list[str]:
    """Images of what data.yaml says of a split: a folder, a text file of paths, or several, relative to `base`.

    The images' paths are relative to `folder`, whose files are `store`, or absolute where they lie outside. `root` is
    the data set, and all of it. Raises FileNotFoundError or
    ValueError, naming `option`, where there are none, or they are not in the data set.
    """
    files: list[str] = []
    for place in entry if isinstance(entry, list) else [entry]:
        path = find_place(base, place)
        if not root.is_inside(str(path.absolute())):
            raise ValueError(
                f"'{path}', the place of {option} in data.yaml, is outside the data set; move it there, or pass "
                "data.allow_outside=true to read it where it is"
            )
        if is_folder(path):
            found = (name for name in open_images(path).names() if Path(name).suffix.lower() in SUFFIXES)
            files += sorted(_relative(path / name, folder) for name in found)
        elif is_file(path):
            lines = read_lines(path)
            if bad := [line for line in lines if not is_file_name(line)]:
                raise ValueError(f"'{path}' lists {bad[0]!r:.40}, which is no name of a file")
            places = (path.parent / line if line.startswith("./") else base / line for line in lines)
            listed = [_relative(p, folder) for p in places]
            files += fit_file_names(listed, store, notes)
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
    paths = [_in_labels(path) for path in places]
    return next((path for path in paths if is_file(path)), paths[0])


def _in_labels(image: Path) -> Path:
    parts = list(image.with_suffix(".txt").parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def read_labels(path: Path, num_key_points: int = 0) -> YoloLabels:
    """What the file says, of objects with so many numbers of key points; nothing where there is none. Raises
    ValueError for one that is no text."""
    labels = YoloLabels([], np.zeros((0, 4)), [])
    if not is_file(path):
        return labels
    try:
        lines = [line.split() for line in read_lines(path)]
    except OSError as error:
        raise ValueError(f"labels '{path}' cannot be read ({error})") from None
    boxes = []
    for row, words in enumerate(lines):
        number = to_integer(words[0])
        labels.classes.append(words[0] if number is None else number)
        values = [to_number(word) for word in words[1:]]
        box, ring = [float("nan")] * 4, None
        issue, why = None, ""
        is_pose = num_key_points > 0
        if len(values) == 4 or (is_pose and len(values) == 4 + num_key_points):
            box = to_corner(values[:4])
        elif len(values) == 5 and not is_pose:
            issue, why, box = WRONG_COLUMNS, "6 columns, a confidence?", to_corner(values[:4])
        elif len(values) > 5 and not is_pose and len(values) % 2:
            issue, why = ODD_POLYGON, f"{len(values)} numbers, and its box would come from them"
        elif len(values) > 5 and not is_pose:
            ring = values
            xs, ys = values[0::2], values[1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            if not np.isfinite(values).all():
                box = [float("nan")] * 4
        else:
            wanted = (
                f"5, or {5 + num_key_points} by kpt_shape"
                if is_pose
                else "5 of a box, 7 or more of a polygon"
            )
            issue, why = WRONG_COLUMNS, f"{len(words)} columns, wanted {wanted}"
        if issue is not None:
            labels.issues.setdefault(issue, {})[row] = why
        boxes.append(box)
        labels.rings.append(ring)
    labels.boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return labels


def to_corner(values: list[float]) -> list[float]:
    """Centre and size to x, y, width, height."""
    return [values[0] - values[2] / 2, values[1] - values[3] / 2, values[2], values[3]]


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


class YoloData(ObjectFiles):
    """Boxes, and with `masks` polygons, of the images that data.yaml names."""

    def __init__(
        self,
        root: str | Path,
        *,
        file: str | None = "data.yaml",
        names: Sequence[str] | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        train_labels: str | None = None,
        val_labels: str | None = None,
        test_labels: str | None = None,
        **options: Unpack[ObjectOptions],
    ):
        """
        Args:
            root: the folder, or the tar or zip file, that holds data.yaml. What that names may lie in archives too; it
                is relative to "path" in it, where that is a folder here, else to its own folder.
            file: the name of data.yaml.
            names: names of the classes by number; then no file is read.
            train: with `names`, the folder of the images for training.
            val: the same for validation.
            test: the same for testing.
            train_labels: folder of the labels for training, which lie in it as the images do in theirs; None for the
                folder of the images with `labels` for the last `images` in its path.
            val_labels: the same for validation.
            test_labels: the same for testing.
            options: those of `ObjectFiles`.

        Raises:
            FileNotFoundError: there is no data.yaml.
            ValueError: it has no names, its "path" leads out of the data set, or a setting is none.
        """
        super().__init__(root, **options)
        self.file = file or "data.yaml"
        if names is not None:
            self.content = {
                "names": [str(name) for name in names], "train": train, "val": val, "test": test, "kpt_shape": 0,
            }  # fmt: skip
        else:
            self.content = read_data_yaml(self.root / self.file)
        self.names = names
        self.labels: dict[SplitName, str | None] = {
            "train": train_labels,
            "val": val_labels,
            "test": test_labels,
        }
        self.base = self._find_base()

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(self.content["names"])

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the class numbers, which are the labels."""
        return np.arange(len(self.content["names"]))

    def has_files(self, name: SplitName) -> bool:
        entry = self.content.get(name)
        if name != "test" or isinstance(entry, list):
            return bool(entry)
        # Roboflow's data.yaml names a test split that is often not there.
        return bool(entry) and (is_folder(path := find_place(self.base, entry)) or is_file(path))

    def expects_files(self, name: SplitName) -> bool:
        return self.has_files(name) if name == "test" else True

    def image_folder(self, name: SplitName) -> Path:
        """The split's own folder, where data.yaml names one."""
        return self._folder(self._entry(self.files_of(name)))

    def _entry(self, name: SplitName) -> Any:
        """What data.yaml says of a split. Raises ValueError where it says nothing."""
        if not self.content.get(name):
            raise ValueError(
                f"the data set has no {name} split; say where its images are in data.yaml: '{name}: …'"
            )
        return self.content[name]

    def _folder(self, entry: Any) -> Path:
        folder = find_place(self.base, entry)
        return folder if not isinstance(entry, list) and is_folder(folder) else self.base

    def made_of(self, name: SplitName) -> MadeOf:
        """Of the images too, whose sizes are read."""
        settings = {} if self.names is None else {key: self.content[key] for key in ("names", *SPLITS)}
        return MadeOf(self.root / self.file, self._files(), {**settings, "labels": self.labels})

    def _files(self) -> list[Path]:
        found: list[Path] = []
        entries: dict[SplitName, Any] = {
            name: self.content[name] for name in SPLITS if self.content.get(name)
        }
        for name, entry in entries.items():
            for place in entry if isinstance(entry, list) else [entry]:
                path = find_place(self.base, place)
                if is_file(path) and not is_folder(path):
                    found.append(path)
            try:
                folder = self._folder(entry)
                store, root = open_images(folder, self.reading), open_images(self.root, self.reading)
                files = list_images(self.base, entry, folder, name, store, root, [])
            except (OSError, ValueError):
                continue
            for file in files:
                found += (folder / file, self._label_file(name, folder, file))
        return found

    def _find_base(self) -> Path:
        """What the places in data.yaml are relative to: its "path", where that is a folder here; else its own."""
        named = self.content.get("path")
        if not isinstance(named, str) or not is_file_name(named):
            return self.root
        base = self.root / named
        if not is_folder(base):
            return self.root
        if not open_images(self.root, self.reading).is_inside(str(base.absolute())):
            raise ValueError(
                f"'{self.root / self.file}' says that its images are in '{base}', outside the data set; give that "
                "folder as data.root=, or pass data.allow_outside=true to read it where it is"
            )
        return base

    def _label_file(self, name: SplitName, folder: Path, file: str) -> Path:
        """Where the labels of an image in `folder` should be."""
        labels = self.labels[self.files_of(name)]
        if labels is None:
            return label_file(folder / file)
        return (self.root / labels / file).with_suffix(".txt")

    def _label_files(
        self, name: SplitName, folder: Path, files: list[str], notes: list[str]
    ) -> tuple[list[Path], dict[int, str]]:
        """Where the labels of each image are, in whichever case they are written; and the images, by index, that would
        share theirs with another one, with why that cannot be."""
        paths = [self._label_file(name, folder, file) for file in files]
        root, there = open_images(self.root, self.reading), dict[Path, dict[str, str]]()
        num_other = 0
        for index, path in enumerate(paths):
            if path.parent not in there:
                is_ours = root.is_inside(str(path.parent.absolute())) and is_folder(path.parent)
                names = open_images(path.parent, self.reading).names() if is_ours else []
                known = {name.casefold(): name for name in names if "/" not in name}
                there[path.parent] = known | {name: name for name in known.values()}
            other = there[path.parent].get(path.name) or there[path.parent].get(path.name.casefold())
            if other is not None and other != path.name:
                paths[index], num_other = path.parent / other, num_other + 1
        if num_other:
            notes.append(
                f"{num_other} files of labels are called as their images but for the case of letters"
            )
        owner: dict[Path, int] = {}
        shared: dict[int, str] = {}
        for index, path in enumerate(paths):
            first = owner.setdefault(path, index)
            if posixpath.normpath(files[first]) != posixpath.normpath(files[index]) and is_file(path):
                why = f"'{files[first]}' and '{files[index]}' would both have the labels '{path}'; rename one"
                shared |= {first: why, index: why}
        return paths, shared

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        entry = self._entry(name)
        folder, notes = self.image_folder(name), []
        store, root = open_images(folder, self.reading), open_images(self.root, self.reading)
        files = list_images(self.base, entry, folder, name, store, root, notes)
        if self.splitting is None:
            files = files[: self.max_images]  # before their labels are read
        labels: list[YoloLabels] = []
        paths, unreadable = self._label_files(name, folder, files, notes)
        for index, (file, path) in enumerate(zip(files, paths, strict=True)):
            try:
                if index in unreadable:
                    raise ValueError(unreadable[index])
                if not store.is_inside(file):
                    raise ValueError("its image is outside the data set")
                check_inside(path, store)
                labels.append(read_labels(path, self.content["kpt_shape"]))
            except ValueError as error:
                unreadable[index] = str(error)
                labels.append(YoloLabels([], np.zeros((0, 4)), []))
        sizes = image_sizes(store, files)
        counts = [len(item.classes) for item in labels]
        first = np.cumsum([0, *counts]).tolist()
        issues: dict[Issue, dict[int, str]] = {}
        for start, item in zip(first, labels, strict=False):
            for issue, found in item.issues.items():
                issues.setdefault(issue, {}).update({start + row: why for row, why in found.items()})
        rows = np.repeat(np.arange(len(files)), counts)
        classes = [number for item in labels for number in item.classes]
        known = range(len(self.content["names"]))
        looked_for = ""
        if not classes and not unreadable and not any(map(is_file, paths)):
            looked_for = (
                f"there is no file of labels for any of its {len(files)} images; that of '{files[0]}' was looked for "
                f"at '{paths[0]}'"
            )
        scale = np.tile(sizes[rows, ::-1], 2).astype(np.float64)
        scale[scale == 0] = 1  # of an image that cannot be read; it is told of for that
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = np.concatenate([item.boxes for item in labels]) * scale
        rings = [ring for item in labels for ring in item.rings]
        polygons: list[Any] = [
            [] if ring is None else [[value * scale[row, i % 2] for i, value in enumerate(ring)]]
            for row, ring in enumerate(rings)
        ]
        return RawSplit.without_ids(
            name,
            f"{self.base}/{entry}",
            folder,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_names=files,
            sizes=sizes,
            counts=counts,
            categories=[str(number) for number in classes],
            labels=[n if isinstance(n, int) and n in known else -1 for n in classes],
            boxes=boxes,
            areas=np.array(
                [
                    (ring_area(polygon[0]) if polygon else 0) or box[2] * box[3]
                    for box, polygon in zip(boxes, polygons, strict=True)
                ]
            ),
            segmentations=polygons if masks else None,
            is_normalised=True,
            unreadable=unreadable,
            row_issues=issues,
            notes=notes,
            reading=self.reading,
            looked_for=looked_for,
        )
