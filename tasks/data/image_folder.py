"""Images sorted into one folder per class, the layout in which ImageNet is unpacked.

<root>/train/<class>/<any image>        <root>/val/<class>/<any image>
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.data.image_labels import ImageLabels
from tasks.data.images import SUFFIXES, read_image
from tasks.data.partition import parse_partition
from tasks.data.sources import SplitName


class ImageFolderSplit:
    """The images below one folder."""

    def __init__(self, folder: Path, annotations: ImageLabels):
        self.folder = folder
        self.annotations = annotations

    def __len__(self) -> int:
        return len(self.annotations)

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright."""
        return read_image(self.folder / self.annotations.file_name(index))


class ImageFolderData:
    """Classes are the names of the folders in sorted order (torchvision's `ImageFolder`, so that published
    ImageNet weights meet the labels they were trained with); images may lie deeper inside them."""

    def __init__(
        self,
        root: str | Path,
        *,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        split: str | Sequence[float] | None = None,
        group_pattern: str | None = None,
        split_seed: int = 0,
    ) -> None:
        """`train`, `val` and `test` name the folders of the splits, relative to `root`. With `split`, shares such as
        "0.8/0.1/0.1", `root` itself holds the class folders and is parted (tasks/data/partition.py);
        `group_pattern` keeps images together by their path.

        Raises:
            FileNotFoundError: `root` is missing.
            ValueError: no split's folder is there, or it has no class folders.
        """
        self.root = Path(root)
        self.folders: dict[str, str] = {"train": train, "val": val, "test": test}
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"data.root={root} is no folder; give the folder that holds {train}/ and {val}/"
            )
        self.partition = parse_partition(split, group_pattern, split_seed)
        if self.partition is not None:
            self.folders = dict.fromkeys(self.folders, ".")
        found = [name for name in self.folders.values() if (self.root / name).is_dir()]
        if not found:
            raise ValueError(
                f"data.root={root} holds none of the folders {', '.join(self.folders.values())}; wanted "
                f"<root>/{train}/<class>/<images> and the same for {val}, or name them: data.train=… data.val=…"
            )
        self._class_names = class_folders(self.root / found[0])
        self._splits: dict[str, ImageFolderSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label: those of the training folder, or of the first split that is there."""
        return list(self._class_names)

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the labels themselves, since folders have no numbers."""
        return np.arange(len(self._class_names))

    def split(self, name: SplitName) -> ImageFolderSplit:
        """The split; its folder is listed on the first call."""
        if name not in self._splits:
            self._splits[name] = self._list(name)
        return self._splits[name]

    def _list(self, name: SplitName) -> ImageFolderSplit:
        folder = self.root / self.folders[name]
        if not folder.is_dir():
            raise ValueError(
                f"there is no {name} split: '{folder}' is no folder; make it, or give data.{name}=…"
            )
        here = class_folders(folder)
        if unknown := sorted(set(here) - set(self._class_names)):
            raise ValueError(
                f"'{folder}' has folders for classes that the training data lacks: {', '.join(unknown[:5])}"
                f"{', …' if len(unknown) > 5 else ''}; it has {', '.join(self._class_names[:5])}, …: every "
                "split needs the same names"
            )
        files: list[bytes] = []
        labels: list[int] = []
        for label, class_name in enumerate(self._class_names):
            found = image_files(folder, class_name) if class_name in here else []
            if class_name in here and not found:
                raise ValueError(
                    f"class folder '{folder / class_name}' has no images (known endings: "
                    f"{', '.join(sorted(SUFFIXES))}); add some, or delete the folder from every split"
                )
            files += found
            labels += [label] * len(found)
        annotations = ImageLabels(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=np.arange(len(files)),
            labels=np.array(labels, np.int64),
            file_names=np.array(files),
        )
        if self.partition is not None:
            shown = annotations.labels[:, None] == np.arange(len(self._class_names))
            names = [annotations.file_name(i) for i in range(len(annotations))]
            annotations = annotations.select(self.partition.indices(name, names, shown))
        return ImageFolderSplit(folder, annotations)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders inside `folder`, sorted; hidden ones are none. ValueError where there are none."""
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise ValueError(
            f"'{folder}' has no folders inside; wanted one per class, with its images: {folder}/<class>/…"
        )
    return names


def image_files(folder: Path, class_name: str) -> list[bytes]:
    """Pictures anywhere below `folder`/`class_name`, as UTF-8 paths relative to `folder`, sorted."""
    found = []
    for parent, _, names in os.walk(folder / class_name, followlinks=True):
        place = os.path.relpath(parent, folder)
        found += [
            f"{place}/{name}".encode()
            for name in names
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)
