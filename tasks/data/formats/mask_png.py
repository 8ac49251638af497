"""Mask PNGs beside images: the value of each pixel of a mask says the class of that pixel of its image.

<root>/images/train/<any path>.jpg        <root>/masks/train/<the same path>.png
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack, get_args

import numpy as np

from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.formats.file_names import read_own_lines
from tasks.data.formats.splitting import parse_splitting
from tasks.data.loading.images import (
    DEFAULT_READING,
    EXIF_ORIENTATION,
    ON_ITS_SIDE,
    SUFFIXES,
    ImageError,
    Reading,
    ReadingOptions,
    open_image,
    reading_of,
)
from tasks.data.loading.storage import (
    ImageStorage,
    in_archive,
    is_file,
    is_folder,
    is_image_root,
    open_images,
    outside,
    read_file,
)
from tasks.data.quality.image_checks import NUM_THREADS
from tasks.data.sources import ClassMapSource
from tasks.data.splits import FileSplit, Split, SplitName
from tasks.targets import IGNORE_LABEL

Unlisted = Literal["error", "ignore"]
_NO_CLASS = -1


class ClassMapReader:
    """Class maps out of mask PNGs, read when they are asked for."""

    def __init__(
        self,
        masks: Sequence[Path],
        classes: Mapping[str, int],
        unlisted: Unlisted,
        reading: Reading,
        ignore: Sequence[int] = (),
    ):
        """`masks` (I,) are files; `classes` the value that stands for each class in them, by name, ascending; `ignore`
        values of none, beside 255."""
        self.masks = masks
        self.reading = reading
        self.classes = classes
        values = list(classes.values())
        self.labels = np.full(256, _NO_CLASS if unlisted == "error" else IGNORE_LABEL, np.int16)
        self.labels[[IGNORE_LABEL, *ignore]] = IGNORE_LABEL
        self.labels[values] = np.arange(len(values))

    def __call__(self, index: int) -> np.ndarray:
        """uint8 (H, W) of labels; ValueError, with the mask's name, for a value that stands for no class."""
        mask = self.masks[index]
        values = read_mask(mask, self.reading)
        class_map = self.labels[values]
        if (beyond := values[class_map == _NO_CLASS]).size:
            known = ", ".join(f"{value} {name}" for name, value in list(self.classes.items())[:5])
            raise ValueError(
                f"mask '{mask}' has the value {beyond.max()} in {beyond.size} pixels, which stands for none of the "
                f"{len(self.classes)} classes ({known}{', …' if len(self.classes) > 5 else ''}; {IGNORE_LABEL} is "
                "ignored): correct the mask, name the class in data.classes, or pass data.unlisted=ignore"
            )
        return class_map.astype(np.uint8)


@dataclass
class MaskList:
    """The images of one split and their masks, both named relative to their folders, in one order."""

    image_folder: Path
    images: list[str]
    mask_folder: Path
    masks: list[str]


class MaskFiles(ClassMapSource):
    """Images with a mask PNG each; a layout says by `list_masks` where they are."""

    def __init__(
        self, classes: dict[str, int], unlisted: Unlisted, reading: Reading, ignore: Sequence[int] = ()
    ):
        """`classes` are as `class_values` gives them; `unlisted` says whether a value of no class, other than 255 and
        those to `ignore`, is an "error", or is to "ignore" too; `reading` is how files are read."""
        super().__init__()
        self.ignore = list(ignore)
        self.reading = reading
        self.classes = classes
        self.unlisted: Unlisted = unlisted

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(self.classes)

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64, ascending: the value of each label in the masks."""
        return np.array(list(self.classes.values()))

    def list_masks(self, name: SplitName) -> MaskList:
        """The files of a split. Raises FileNotFoundError or ValueError where there are none."""
        raise NotImplementedError

    def read_split(self, name: SplitName) -> Split[ClassMaps]:
        """The split. Raises ValueError for a mask that is not of its image's size, or a file that is no image."""
        listed = self.list_masks(name)
        check_masks_exist(listed.images, listed.mask_folder, listed.masks, self.reading)
        split = self._split(listed)
        for image, mask in zip(listed.images, listed.masks, strict=True):
            check_sizes(split.storage, image, listed.mask_folder / mask, self.reading)
        return split

    def unchecked_split(self, name: SplitName) -> Split[ClassMaps]:
        listed = self.list_masks(name)
        check_masks_inside(listed.mask_folder, listed.masks, self.reading)
        return self._split(listed)

    def _split(self, listed: MaskList) -> FileSplit[ClassMaps]:
        masks = [listed.mask_folder / mask for mask in listed.masks]
        annotations = ClassMaps(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=np.arange(len(masks)),
            file_names=np.array([os.fsencode(image) for image in listed.images]),
            read=self.reader(masks),
        )
        return FileSplit(listed.image_folder, annotations, reading=self.reading)

    def reader(self, masks: Sequence[Path]) -> ClassMapReader:
        """The class maps in these files."""
        return ClassMapReader(masks, self.classes, self.unlisted, self.reading, self.ignore)


class MaskPngData(MaskFiles):
    """Images and masks in two folders for each split, with the same paths inside but for the endings."""

    def __init__(
        self,
        root: str | Path,
        *,
        classes: Sequence[str] | Mapping[str, int] | None = None,
        train_images: str | None = "images/train",
        train_masks: str | None = "masks/train",
        val_images: str | None = "images/val",
        val_masks: str | None = "masks/val",
        test_images: str | None = "images/test",
        test_masks: str | None = "masks/test",
        image_suffix: str = "",
        mask_suffix: str = "",
        unlisted: Unlisted = "error",
        ignore: Sequence[int] = (),
        max_images: int | None = None,
        split: str | Sequence[float] | None = None,
        group_pattern: str | None = None,
        groups: str | None = None,
        near_copies: bool = False,
        split_seed: int = 0,
        **reading: Unpack[ReadingOptions],
    ):
        """
        Args:
            root: the folder that the other paths are relative to.
            classes: names in the order of the values 0, 1, … in the masks, or the value of each name; None
                reads the names from the file `classes.txt` in `root`, one a line.
            train_images: folder of images; this and the others may be, or lead into, a tar or zip file.
            train_masks: folder of their masks.
            val_images: the same for validation.
            val_masks: the same for validation.
            test_images: the same for testing.
            test_masks: the same for testing.
            image_suffix: how the names of images end, before the dot; other files are no images.
            mask_suffix: how those of masks end where images have `image_suffix`.
            unlisted: whether a value of no class, other than 255, is an "error", or is to "ignore" as 255 is.
            ignore: values of no class that are ignored beside 255, such as that of a void class.
            max_images: keep only the first so many images of each split, to try something out.
            split: shares such as "0.8/0.2": the images for training are split (tasks/data/formats/splitting.py).
            group_pattern: this, `groups`, `near_copies` and `split_seed` are as in `ObjectFiles`.
            groups: see there.
            near_copies: see there.
            split_seed: see there.
            reading: `max_pixels`, `value_range` and `allow_outside`: how image files are read.

        Raises:
            FileNotFoundError: `root` is missing.
            ValueError: no classes, two of one value, or a value beyond 255.
        """
        self.root = Path(root).expanduser()
        if not is_image_root(self.root):
            raise FileNotFoundError(f"data.root={root} does not exist or is no folder; wanted the data set's")
        how = reading_of(self.root, **reading)
        super().__init__(class_values(classes, self.root, how), unlisted, how, ignore)
        if not all(0 <= value <= IGNORE_LABEL for value in ignore) or set(ignore) & set(
            self.classes.values()
        ):
            raise ValueError(f"data.ignore={list(ignore)} wants values from 0 to 255 that stand for no class")
        self.splitting = parse_splitting(
            split, group_pattern, split_seed, None if groups is None else self.root / groups, near_copies
        )
        self._shown: np.ndarray | None = None
        if unlisted not in get_args(Unlisted):
            raise ValueError(
                f"data.unlisted={unlisted} is unknown; wanted one of {', '.join(get_args(Unlisted))}"
            )
        self.folders: dict[str, tuple[str | None, str | None]] = {
            "train": (train_images, train_masks),
            "val": (val_images, val_masks),
            "test": (test_images, test_masks),
        }
        self.image_suffix = image_suffix
        self.mask_suffix = mask_suffix
        self.max_images = max_images

    def has_split(self, name: SplitName) -> bool:
        if self.splitting is not None:
            return self.splitting.has_split(name)
        images, masks = self.folders[name]
        return images is not None and masks is not None and is_folder(self.root / images)

    def list_masks(self, name: SplitName) -> MaskList:
        if self.splitting is None:
            listed = self._list(name)
        else:
            whole = self._list("train")
            indices = self.splitting.indices(
                name, whole.images, self._classes_of(whole), open_images(whole.image_folder, self.reading)
            )
            listed = MaskList(
                whole.image_folder,
                [whole.images[i] for i in indices],
                whole.mask_folder,
                [whole.masks[i] for i in indices],
            )
        listed.images, listed.masks = listed.images[: self.max_images], listed.masks[: self.max_images]
        return listed

    def _classes_of(self, listed: MaskList) -> np.ndarray:
        """(I, K) bool: the classes that each mask shows; every mask is read for it, once."""
        if self._shown is None:
            check_masks_exist(listed.images, listed.mask_folder, listed.masks, self.reading)
            reader = self.reader([listed.mask_folder / mask for mask in listed.masks])
            with ThreadPoolExecutor(NUM_THREADS) as threads:
                found = list(
                    threads.map(
                        lambda i: np.bincount(reader(i).ravel(), minlength=256), range(len(listed.masks))
                    )
                )
            self._shown = np.array(found).reshape(len(found), -1)[:, : len(self.classes)] > 0
        return self._shown

    def _list(self, name: SplitName) -> MaskList:
        images, masks = (self.root / (f or f"no {name} folder") for f in self.folders[name])
        for folder, option in ((images, f"data.{name}_images"), (masks, f"data.{name}_masks")):
            if not is_folder(folder):
                raise FileNotFoundError(
                    f"there is no {name} split: '{folder}' is no folder; name it with {option}= (relative to data.root)"
                )
        files = image_files(images, self.image_suffix)
        if not files:
            raise ValueError(
                f"'{images}' holds no images whose names end in '{self.image_suffix}' before the dot (known endings: "
                f"{', '.join(sorted(SUFFIXES))}); name the right folder with data.{name}_images="
            )
        found = [mask_name(file, self.image_suffix, self.mask_suffix) for file in files]
        return MaskList(images, files, masks, found)


def class_values(
    classes: Sequence[str] | Mapping[str, int] | None, root: Path, reading: Reading
) -> dict[str, int]:
    """The value of each class in the masks, ascending; see `MaskPngData`."""
    if classes is None:
        file = root / "classes.txt"
        if not is_file(file):
            raise ValueError(
                "masks hold numbers, and nothing says which class each of them is: list the names in the order of the "
                f"numbers with data.classes=[background,…], or in '{file}', one a line"
            )
        classes = read_own_lines(file, reading)
    if not isinstance(classes, Mapping):
        if len(set(classes)) < len(classes):
            raise ValueError(f"data.classes names a class twice: {', '.join(classes)}")
        classes = {str(name): value for value, name in enumerate(classes)}
    values = list(classes.values())
    if not values or len(set(values)) < len(values) or min(values) < 0 or max(values) > IGNORE_LABEL:
        raise ValueError(
            f"data.classes gives the values {values}; wanted a different one for each class, from 0 to 255 (255 is "
            "ignored unless a class has it)"
        )
    return dict(sorted(classes.items(), key=lambda item: item[1]))


def image_files(folder: Path, suffix: str) -> list[str]:
    """Paths, relative to `folder`, of the pictures anywhere below whose names end so; sorted."""
    found = []
    for name in open_images(folder).names():
        stem, ending = os.path.splitext(name)
        if ending.lower() in SUFFIXES and stem.endswith(suffix):
            found.append(name)
    return found


def mask_name(file: str, image_suffix: str, mask_suffix: str) -> str:
    """Path of the mask of the image `file`, both relative to their folders."""
    return os.path.splitext(file)[0].removesuffix(image_suffix) + mask_suffix + ".png"


def check_masks_exist(files: Sequence[str], folder: Path, masks: Sequence[str], reading: Reading) -> None:
    """Raises FileNotFoundError, naming the first few, unless every image has its mask in `folder`; ValueError where one
    leads out of the data set."""
    check_masks_inside(folder, masks, reading)
    absent = set(open_images(folder, reading).missing(masks))
    missing = [(file, mask) for file, mask in zip(files, masks, strict=True) if mask in absent]
    if missing:
        examples = "; ".join(f"'{file}' wants '{folder / mask}'" for file, mask in missing[:3])
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images have no mask: {examples}{'; …' if len(missing) > 3 else ''}; add "
            "the masks, remove the images, or say how names differ with data.image_suffix= and data.mask_suffix="
        )


def check_masks_inside(folder: Path, masks: Sequence[str], reading: Reading) -> None:
    """Raises ValueError where one of `masks` leads out of the data set."""
    if beyond := open_images(folder, reading).outside(masks):
        raise outside(f"mask '{folder / beyond[0]}' is outside the data set")


def read_mask(path: Path, reading: Reading = DEFAULT_READING) -> np.ndarray:
    """uint8 (H, W): the numbers in a palette, grey or black-and-white PNG, not the colours they stand for.

    Raises ValueError, which names the file, where it has colours instead of numbers, or numbers past 255.
    """
    try:
        content = read_file(path, reading.max_bytes)
        with open_image(content, str(path), reading) as image:
            mode = image.mode
            values = np.asarray(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"mask '{path}' is missing") from None
    except (OSError, ImageError) as error:
        raise ValueError(f"mask '{path}' cannot be decoded ({error}); replace it or leave it out") from error
    if mode not in ("P", "L", "1") and not mode.startswith("I"):
        raise ValueError(
            f"mask '{path}' holds colours ({mode}), of which none says a class; wanted a PNG of one number a pixel, "
            "with a palette or grey: convert each colour to the number of its class"
        )
    if values.size and (values.max() > 255 or values.min() < 0):
        raise ValueError(f"mask '{path}' has values from {values.min()} to {values.max()}; wanted 0 to 255")
    return values.astype(np.uint8)


def check_sizes(store: ImageStorage, file: str, mask: Path, reading: Reading) -> None:
    """Raises ValueError unless the image `file` in `store` and its mask have as many pixels each way; reads no more
    than their headers."""
    source = store.source(file)
    name = str(source) if isinstance(source, Path) else file
    height, width = upright_size(source, name, reading)
    of_mask = mask if in_archive(mask) is None else read_file(mask, reading.max_bytes)
    mask_height, mask_width = upright_size(of_mask, str(mask), reading)
    if (height, width) != (mask_height, mask_width):
        raise ValueError(
            f"mask '{mask}' is {mask_width} wide and {mask_height} high, but its image '{name}' is {width} wide "
            f"and {height} high; a mask needs the pixels of its image: make it again, and do not resize it"
        )


def upright_size(source: Path | bytes, name: str, reading: Reading) -> tuple[int, int]:
    """(height, width) of the image after its EXIF orientation, from its header alone."""
    try:
        with open_image(source, name, reading) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) in ON_ITS_SIDE
    except (OSError, ImageError) as error:
        raise ValueError(
            f"'{name}' cannot be read as an image ({error}); replace it or leave it out"
        ) from error
    return (width, height) if turned else (height, width)
