"""`ObjectFiles`: objects in annotation files; what every format of them shares once its reader gives raw columns.

A new format is a subclass: a constructor with the names of its files, and `has_files`, `image_folder` and `read`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, Unpack

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.formats.cache import cached
from tasks.data.formats.raw import RawSplit
from tasks.data.formats.splitting import parse_splitting
from tasks.data.loading.images import ReadingOptions, reading_of
from tasks.data.loading.storage import open_images
from tasks.data.progress import without_collection
from tasks.data.quality.image_checks import CheckImages, check_check_images
from tasks.data.quality.policy import OnInvalid, check_on_invalid, usable_annotations
from tasks.data.sources import ObjectSource
from tasks.data.splits import SPLITS, FileSplit, Split, SplitName


class MadeOf(NamedTuple):
    """What the annotations of a split are made of, by which a cache of them is known."""

    path: Path
    """The file or folder that the cache lies beside."""
    beside: list[Path]
    """All other files."""
    settings: dict[str, Any]
    """The format's own, as plain values."""


class ObjectOptions(ReadingOptions, total=False):
    """The settings of every format of objects; see `ObjectFiles`."""

    on_invalid: OnInvalid
    check_images: CheckImages
    masks: bool
    max_images: int | None
    split: str | Sequence[float] | None
    group_pattern: str | None
    groups: str | None
    near_copies: bool
    split_seed: int


class ObjectFiles(ObjectSource):
    """Images and annotation files below one root."""

    masks_with_boxes = True
    """Whether masks stand in the same files as boxes, so that reading them costs no image its place."""

    def __init__(
        self,
        root: str | Path,
        on_invalid: OnInvalid = "error",
        check_images: CheckImages = "headers",
        masks: bool = False,
        max_images: int | None = None,
        split: str | Sequence[float] | None = None,
        group_pattern: str | None = None,
        split_seed: int = 0,
        *,
        groups: str | None = None,
        near_copies: bool = False,
        **reading: Unpack[ReadingOptions],
    ):
        """
        Args:
            root: the folder that all paths are relative to, or a tar or zip file.
            on_invalid: what happens to bad annotations and images (tasks/data/quality/policy.py): "error" stops, "fix"
                fixes what can be fixed and leaves out the rest, "drop" leaves all of them out, "fix_few" is "fix" where
                they are few and else "error".
            check_images: how image files are looked at before that.
            masks: read masks too.
            max_images: keep only the first so many images of each split, to try something out.
            split: shares such as "0.8/0.1/0.1": the images for training, all that there are where a format has
                lists of its own, are split into train, val and test (tasks/data/formats/splitting.py).
            group_pattern: a regular expression; images from whose path it takes the same text stay together.
            split_seed: seed of that split.
            groups: a file in `root` of two columns, image and group; images of one group stay together.
            near_copies: pictures that are nearly the same stay together, which reads all of them.
            reading: `max_pixels`, `value_range` and `allow_outside`: how image files are read.
        """
        check_on_invalid(on_invalid)
        check_check_images(check_images)
        if max_images is not None and max_images < 1:
            raise ValueError(f"data.max_images={max_images} must be at least 1, or null for all")
        super().__init__(masks=masks)
        self.root = Path(root).expanduser()
        self.on_invalid: OnInvalid = on_invalid
        self.check_images: CheckImages = check_images
        self.max_images = max_images
        self.splitting = parse_splitting(
            split, group_pattern, split_seed, None if groups is None else self.root / groups, near_copies
        )
        self.reading = reading_of(self.root, **reading)

    # What a format says.

    @abstractmethod
    def has_files(self, name: SplitName) -> bool:
        """Whether there are annotation files of such a split."""

    @abstractmethod
    def image_folder(self, name: SplitName) -> Path:
        """What the names of a split's images are relative to."""

    @abstractmethod
    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        """The reader: the split as its files say, unchecked; with `masks`, those that stand in the same files.

        Raises FileNotFoundError or ValueError, with one sentence, for files that are missing or of another format.
        """

    def expects_files(self, name: SplitName) -> bool:
        """Whether there must be annotation files of such a split, be they there or not."""
        return self.has_files(name)

    def made_of(self, name: SplitName) -> MadeOf | None:
        """All files that the annotations of a split are made of; None where they are not to be cached."""
        return None

    # What all share.

    @property
    def class_names(self) -> list[str]:
        """Names by label; those of any split, for all of them must declare the same."""
        return self._any_split().annotations.class_names

    @property
    def category_ids(self) -> np.ndarray:
        return self._any_split().annotations.category_ids

    def has_split(self, name: SplitName) -> bool:
        return self.has_files(name) if self.splitting is None else self.splitting.has_split(name)

    def expects(self, name: SplitName) -> bool:
        return self.expects_files(name) if self.splitting is None else self.splitting.has_split(name)

    def why_untrainable(self, name: SplitName) -> str:
        return self.raw(name).why_untrainable()

    def with_files(self) -> Self:
        return self

    def raw(self, name: SplitName, *, segmentations: bool = False) -> RawSplit:
        """The split as its annotation files say, unchecked; with `segmentations` also where masks were not asked for,
        if those files have them. Raises FileNotFoundError or ValueError where the files cannot be read."""
        masks = self.masks or segmentations
        with without_collection():
            raw = self.read(self.files_of(name), masks=masks)
        if self.splitting is not None:
            raw = self.splitting.take(raw, name)
        if self.max_images is not None:
            raw = raw.select(np.arange(min(self.max_images, len(raw))))
        return raw

    def usable(self, name: SplitName) -> Annotations:
        """The annotations of the split, checked, and fixed or dropped as `on_invalid` says; from the cache where they
        are in there."""

        def read() -> Annotations:
            with without_collection():
                return usable_annotations(self, name, self.on_invalid, self.check_images)

        made_of = self.made_of(name)
        if made_of is None:
            return read()
        store = open_images(self.image_folder(name), self.reading)
        return cached(
            made_of.path,
            read,
            choices={
                "format": type(self).__name__,
                "split": name,
                "on_invalid": self.on_invalid,
                "check_images": self.check_images,
                "masks": self.masks,
                "requires_masks": self.requires_masks,
                "max_images": self.max_images,
                "splitting": repr(self.splitting),
                "reading": repr(self.reading),
                **made_of.settings,
            },
            beside=made_of.beside,
            is_true=lambda found: not store.missing([found.file_name(i) for i in range(len(found))]),
        )

    def read_split(self, name: SplitName) -> Split[Annotations]:
        annotations = self.usable(name)
        for other_name, other in self._splits.items():
            check_same_classes(name, annotations, other_name, other.annotations)
        return FileSplit(self.image_folder(name), annotations, annotations.sizes, self.reading)

    def files_of(self, name: SplitName) -> SplitName:
        """The split whose files hold the images of the split called `name`."""
        return name if self.splitting is None else "train"

    def _any_split(self) -> Split[Annotations]:
        if self._splits:
            return next(iter(self._splits.values()))
        found: list[SplitName] = [name for name in SPLITS if self.has_split(name)]
        return self.split(found[0] if found else "train")


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
