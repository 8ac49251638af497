"""A data set in YOLO's layout: boxes and polygons in fractions of the image, as told by its data.yaml.

<root>/images/train/a.jpg  labels/train/a.txt        or        <root>/train/images/a.jpg  train/labels/a.txt
A line of labels is a class number and then cx, cy, width, height of a box or x, y, x, y, … of a polygon, all in
fractions of the image's sides. An image without a file of labels shows nothing. With `kpt_shape: [N, D]` in data.yaml
(pose) a line is a class number, the box, and N times D numbers of key points, which are left out.
"""

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from tasks.data.formats.data_yaml import find_base, find_place, read_data_yaml
from tasks.data.formats.file_names import check_inside, fit_file_names, is_file_name
from tasks.data.formats.labelled import LabelledImage, LabelledObject, box_around, to_raw
from tasks.data.formats.object_files import MadeOf, ObjectFiles, ObjectOptions
from tasks.data.formats.raw import RawSplit
from tasks.data.formats.values import to_integer, to_number
from tasks.data.loading.storage import (
    ImageStorage,
    image_names,
    in_archive,
    is_file,
    is_folder,
    open_images,
    outside,
    read_lines,
)
from tasks.data.quality.issues import ODD_POLYGON, WRONG_COLUMNS
from tasks.data.splits import SPLITS, SplitName


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
    the data set, and all of it. Raises FileNotFoundError or ValueError, naming `option`, where there are none, or they
    are not in the data set.
    """
    files: list[str] = []
    for place in entry if isinstance(entry, list) else [entry]:
        path = find_place(base, place)
        if not root.is_inside(str(path.absolute())):
            raise outside(f"'{path}', the place of {option} in data.yaml, is outside the data set")
        if is_folder(path):
            files += sorted(_relative(path / name, folder) for name in image_names(open_images(path)))
        elif is_file(path):
            lines = read_lines(path)
            if bad := [line for line in lines if not is_file_name(line)]:
                raise ValueError(f"'{path}' lists {bad[0]!r:.40}, which is no name of a file")
            places = (path.parent / line if line.startswith("./") else base / line for line in lines)
            files += fit_file_names([_relative(p, folder) for p in places], store, notes)
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
    return labels_folder(image.parent) / f"{image.stem}.txt"


def labels_folder(images: Path) -> Path:
    """The folder of the labels of the images in a folder."""
    parts = list(images.parts)
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def read_labels(path: Path, num_key_points: int = 0) -> list[LabelledObject]:
    """What the file says, of objects with so many numbers of key points; nothing where there is none. Raises
    ValueError for one that is no text."""
    if not is_file(path):
        return []
    try:
        return [read_line(line.split(), num_key_points) for line in read_lines(path)]
    except OSError as error:
        raise ValueError(f"labels '{path}' cannot be read ({error})") from None


def read_line(words: list[str], num_key_points: int) -> LabelledObject:
    """The object of one line, called by its class number or what stands in the place of one."""
    number = to_integer(words[0])
    name = words[0] if number is None else str(number)
    values = [to_number(word) for word in words[1:]]
    if len(values) in (4, 4 + num_key_points):
        return LabelledObject(name, to_corner(values))
    if num_key_points == 0 and len(values) == 5:
        return LabelledObject(name, to_corner(values), issue=(WRONG_COLUMNS, "6 columns, a confidence?"))
    if num_key_points == 0 and len(values) > 5:
        if len(values) % 2 == 0:
            return LabelledObject(name, box_around([values]), [values])
        issue = ODD_POLYGON, f"{len(values)} numbers, and its box would come from them"
    else:
        usual = "5 of a box, 7 or more of a polygon"
        wanted = f"5, or {5 + num_key_points} by kpt_shape" if num_key_points else usual
        issue = WRONG_COLUMNS, f"{len(words)} columns, wanted {wanted}"
    return LabelledObject(name, box_around([]), issue=issue)


def to_corner(values: list[float]) -> list[float]:
    """Centre and size, and what stands behind them, to x, y, width, height."""
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
        self.base = find_base(self.root, self.content)
        if not open_images(self.root, self.reading).is_inside(str(self.base.absolute())):
            raise outside(
                f"'{self.root / self.file}' says that its images are in '{self.base}', outside the data set",
                "give that folder as data.root=",
            )

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
        for name in SPLITS:
            if not (entry := self.content.get(name)):
                continue
            paths = [find_place(self.base, p) for p in (entry if isinstance(entry, list) else [entry])]
            found += [path for path in paths if is_file(path) and not is_folder(path)]
            try:
                folder, _, files = self._list(name, [])
            except (OSError, ValueError):
                continue
            for file in files:
                found += (folder / file, self._label_file(name, folder, file))
        return found

    def _list(self, name: SplitName, notes: list[str]) -> tuple[Path, ImageStorage, list[str]]:
        """The folder of the images of a split, its files, and the images."""
        entry = self._entry(name)
        folder = self._folder(entry)
        store, root = open_images(folder, self.reading), open_images(self.root, self.reading)
        return folder, store, list_images(self.base, entry, folder, name, store, root, notes)

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
        notes: list[str] = []
        folder, store, files = self._list(name, notes)
        if self.splitting is None:
            files = files[: self.max_images]  # before their labels are read
        paths, shared = self._label_files(name, folder, files, notes)
        images: list[LabelledImage] = []
        for index, (file, path) in enumerate(zip(files, paths, strict=True)):
            image = LabelledImage(file, in_fractions=True, unreadable=shared.get(index, ""))
            images.append(image)
            if not image.unreadable:
                try:
                    if not store.is_inside(file):
                        raise ValueError("its image is outside the data set")
                    check_inside(path, store)
                    image.objects = read_labels(path, self.content["kpt_shape"])
                except ValueError as error:
                    image.unreadable = str(error)
        looked_for = ""
        if not any(image.objects or image.unreadable for image in images) and not any(map(is_file, paths)):
            looked_for = (
                f"there is no file of labels for any of its {len(files)} images; that of '{files[0]}' was looked for "
                f"at '{paths[0]}'"
            )
        class_names = self.class_names
        return to_raw(
            name,
            f"{self.base}/{self._entry(name)}",
            folder,
            images,
            files,
            class_names=class_names,
            category_ids=self.category_ids,
            label_of={str(number): number for number in range(len(class_names))},
            masks=masks,
            reading=self.reading,
            notes=notes,
            looked_for=looked_for,
        )
