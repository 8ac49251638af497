"""`SplitFiles`: objects of which each split is a folder of images and one file, or one folder, of annotations.

Settings name both by split, relative to the root: `train_images` and `train_annotations`, and the same for val and
test. With `split` the images for training are all that there are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

from tasks.data.formats.cache import files_in
from tasks.data.formats.object_files import MadeOf, ObjectFiles, ObjectOptions
from tasks.data.loading.storage import is_file, is_folder, is_image_root
from tasks.data.splits import SPLITS, SplitName

KINDS = ("images", "annotations")


class SplitFiles(ObjectFiles):
    """The places of the images and annotations of each split."""

    in_folders = False
    """Whether the annotations of a split are a folder of files rather than one file."""
    defaults: Mapping[str, str | None] = {}
    """Places, by setting, that need not be there though they are named."""

    def __init__(
        self,
        root: str | Path,
        *,
        train_images: str | None = None,
        train_annotations: str | None = None,
        val_images: str | None = None,
        val_annotations: str | None = None,
        test_images: str | None = None,
        test_annotations: str | None = None,
        **options: Unpack[ObjectOptions],
    ):
        """
        Args:
            root: the folder, or the tar or zip file, that all places are relative to.
            train_images: folder of the images for training; this and the others may be, or lead into, an archive.
            train_annotations: file of their annotations, or folder of such files.
            val_images: the same for validation.
            val_annotations: the same for validation.
            test_images: the same for testing.
            test_annotations: the same for testing.
            options: those of `ObjectFiles`.

        Raises:
            FileNotFoundError: `root`, or what a setting names that is not among `defaults`, is not there.
        """
        super().__init__(root, **options)
        if not is_image_root(self.root):
            raise FileNotFoundError(
                f"data.root={root} does not exist or is no folder; wanted the folder, or the tar or zip file, that "
                "holds the images and annotations"
            )
        self.paths: dict[SplitName, tuple[str | None, str | None]] = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
            "test": (test_images, test_annotations),
        }
        for name, named in self.paths.items():
            if self.splitting is not None and name != "train":
                continue
            for kind, value in zip(KINDS, named, strict=True):
                if value is not None and value != self.defaults.get(f"{name}_{kind}"):
                    self._check_there(name, kind, self.root / value)

    def _check_there(self, name: str, kind: str, path: Path) -> None:
        if kind == "images" and not is_image_root(path):
            raise FileNotFoundError(no_folder(path, name))
        if kind == "annotations" and not (is_file(path) or is_folder(path)):
            raise FileNotFoundError(no_annotations(path, f"data.{name}_annotations"))

    def has_files(self, name: SplitName) -> bool:
        images, annotations = self.paths[name]
        if images is None or annotations is None:
            return False
        path = self.root / annotations
        return is_folder(path) if self.in_folders else is_file(path)

    def expects_files(self, name: SplitName) -> bool:
        return None not in self.paths[name]

    def image_folder(self, name: SplitName) -> Path:
        return self.places(name)[0]

    def made_of(self, name: SplitName) -> MadeOf:
        """Of the annotations of all splits, whose classes may depend on each other, and of images whose sizes are
        read where the format declares none."""
        places = [self.root / path for _, path in self.paths.values() if path is not None]
        own = self.places(name)
        if self.in_folders:
            images = [self.root / path for path, _ in self.paths.values() if path is not None]
            beside = files_in(list(dict.fromkeys([*places, *images])))
        else:
            beside = sorted({path for path in places if is_file(path)} - {own[1]})
        return MadeOf(own[1], beside, {"paths": {split: list(paths) for split, paths in self.paths.items()}})

    def places(self, name: SplitName) -> tuple[Path, Path]:
        """The folder of the images of a split, and its annotations. Raises ValueError or FileNotFoundError where a
        setting is missing, or there is no such folder."""
        file_of = self.files_of(name)
        images, annotations = self.paths[file_of]
        if images is None or annotations is None:
            raise ValueError(
                f"the data set has no {name} split; name it with data.{file_of}_images= and "
                f"data.{file_of}_annotations=, or let data=auto find it"
            )
        folder = self.root / images
        if not is_image_root(folder):
            raise FileNotFoundError(no_folder(folder, file_of))
        return folder, self.root / annotations

    def with_files_of_their_own(self) -> Sequence[SplitName]:
        """The splits that files are read for."""
        names: Sequence[SplitName] = SPLITS if self.splitting is None else ("train",)
        return [name for name in names if self.has_files(name)]


def no_annotations(path: Path, option: str) -> str:
    """What is said of annotations that are not there."""
    return f"annotation file '{path}' does not exist; name it with {option}= (relative to data.root)"


def no_folder(path: Path, name: str) -> str:
    """What is said of an image folder that is not there."""
    return (
        f"image folder '{path}' does not exist; name it with data.{name}_images= (relative to data.root), or a tar or "
        "zip file"
    )
