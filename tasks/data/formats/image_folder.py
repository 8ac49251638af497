"""Images sorted into one folder per class, the layout in which ImageNet is unpacked.

<root>/train/<class>/<any image>        <root>/val/<class>/<any image>
<root>/train.tar and val.tar with data.train=train.tar data.val=val.tar, or <root> itself a tar or zip of them
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.formats.splitting import parse_splitting
from tasks.data.loading.images import SUFFIXES, ReadingOptions, reading_of
from tasks.data.loading.storage import ImageStorage, is_image_root, open_images
from tasks.data.sources import LabelSource
from tasks.data.splits import FileSplit, Split, SplitName


class ImageFolderData(LabelSource):
    """Classes are the names of the folders in sorted order (torchvision's `ImageFolder`, so that published
    ImageNet weights meet the labels they were trained with); images may lie deeper inside them."""

    def __init__(
        self,
        root: str | Path,
        *,
        train: str | None = "train",
        val: str | None = "val",
        test: str | None = "test",
        split: str | Sequence[float] | None = None,
        group_pattern: str | None = None,
        groups: str | None = None,
        near_copies: bool = False,
        split_seed: int = 0,
        **reading: Unpack[ReadingOptions],
    ) -> None:
        """`train`, `val` and `test` name the folders of the splits, or archives of them, relative to `root`, or are
        None. With `split`, shares such as "0.8/0.1/0.1", `root` itself holds the class folders and is split
        (tasks/data/formats/splitting.py); `group_pattern` keeps images together by their path, `groups` and
        `near_copies` as in `ObjectFiles`.
        `reading` is `max_pixels`, `value_range` and `allow_outside`: how image files are read.

        Raises:
            FileNotFoundError: `root` is missing.
            ValueError: no split's folder is there, or it has no class folders.
        """
        super().__init__()
        self.root = Path(root)
        self.folders: dict[SplitName, str | None] = {"train": train, "val": val, "test": test}
        if not is_image_root(self.root):
            raise FileNotFoundError(
                f"data.root={root} is no folder; give the folder that holds {train}/ and {val}/"
            )
        self.reading = reading_of(self.root, **reading)
        self._storages: dict[str, ImageStorage] = {}
        self.splitting = parse_splitting(
            split, group_pattern, split_seed, None if groups is None else self.root / groups, near_copies
        )
        if self.splitting is not None:
            self.folders = dict.fromkeys(self.folders, ".")
        found: list[SplitName] = [name for name in self.folders if self._has_folder(name)]
        if not found:
            raise ValueError(
                f"data.root={root} holds none of the folders {', '.join(filter(None, self.folders.values()))}; wanted "
                f"<root>/{train}/<class>/<images> and the same for {val}, or name them: data.train=… data.val=…"
            )
        self._class_names = self._class_folders(found[0])

    @property
    def class_names(self) -> list[str]:
        """Names by label: those of the training folder, or of the first split that is there."""
        return list(self._class_names)

    def has_split(self, name: SplitName) -> bool:
        return self._has_folder(name) and (self.splitting is None or self.splitting.has_split(name))

    def _folder(self, name: SplitName) -> Path:
        return self.root / (self.folders[name] or name)

    def _has_folder(self, name: SplitName) -> bool:
        if self.folders[name] is None:
            return False
        folder = self._folder(name)
        return is_image_root(folder) and (folder.is_dir() or bool(self._storage(name).names()))

    def read_split(self, name: SplitName) -> Split[ImageLabels]:
        folder = self._folder(name)
        if not self._has_folder(name):
            raise ValueError(
                f"there is no {name} split: '{folder}' is no folder; make it, or give data.{name}=…"
            )
        here = self._class_folders(name)
        if unknown := sorted(set(here) - set(self._class_names)):
            raise ValueError(
                f"'{folder}' has folders for classes that the training data lacks: {', '.join(unknown[:5])}"
                f"{', …' if len(unknown) > 5 else ''}; it has {', '.join(self._class_names[:5])}, …: every "
                "split needs the same names"
            )
        files: list[bytes] = []
        labels: list[int] = []
        of_class: dict[str, list[bytes]] = {}
        store, seen = self._storage(name), set()
        for file in store.names():
            if (parent := os.path.dirname(file)) not in seen:
                seen.add(parent)
                store.source(file)  # says so where the folder is a link that leads out of the data set
            if os.path.splitext(file)[1].lower() in SUFFIXES:
                of_class.setdefault(file.split("/")[0], []).append(os.fsencode(file))
        for label, class_name in enumerate(self._class_names):
            found = of_class.get(class_name, [])
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
        if self.splitting is not None:
            shown = annotations.labels[:, None] == np.arange(len(self._class_names))
            names = [annotations.file_name(i) for i in range(len(annotations))]
            annotations = annotations.select(self.splitting.indices(name, names, shown, store))
        return FileSplit(folder, annotations, reading=self.reading)

    def _storage(self, name: SplitName) -> ImageStorage:
        if name not in self._storages:
            self._storages[name] = open_images(self._folder(name), self.reading)
        return self._storages[name]

    def _class_folders(self, name: SplitName) -> list[str]:
        """Names of the folders of the split, sorted; hidden ones are none. ValueError where there are none."""
        folder = self._folder(name)
        if folder.is_dir():
            names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
        else:
            names = sorted({file.split("/")[0] for file in self._storage(name).names() if "/" in file})
        if not names:
            raise ValueError(
                f"'{folder}' has no folders inside; wanted one per class, with its images: {folder}/<class>/…"
            )
        return names
