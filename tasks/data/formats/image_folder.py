"""Images sorted into one folder per class, the layout in which ImageNet is unpacked.

<root>/train/<class>/<any image>        <root>/val/<class>/<any image>
<root>/train.tar and val.tar with data.train=train.tar data.val=val.tar, or <root> itself a tar or zip of them
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.formats.splitting import parse_partition
from tasks.data.loading.images import MAX_PIXELS, SUFFIXES, reading_of
from tasks.data.loading.storage import ImageStore, ShownAt, is_store, open_store
from tasks.data.sources import SplitName


class ImageFolderSplit:
    """The images below one folder, or in one archive."""

    def __init__(self, store: ImageStore, annotations: ImageLabels):
        self.store = store
        self.annotations = annotations

    def __len__(self) -> int:
        return len(self.annotations)

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright."""
        return self.store.image(self.annotations.file_name(index))

    def reduced_image(self, index: int, shown_at: ShownAt) -> np.ndarray:
        """The image decoded at a part of its size where its format allows it, no smaller than it is shown at."""
        return self.store.image(self.annotations.file_name(index), shown_at)


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
        max_pixels: int = MAX_PIXELS,
        value_range: Sequence[float] | None = None,
        allow_outside: bool = False,
    ) -> None:
        """`train`, `val` and `test` name the folders of the splits, or archives of them, relative to `root`. With
        `split`, shares such as "0.8/0.1/0.1", `root` itself holds the class folders and is parted
        (tasks/data/formats/splitting.py); `group_pattern` keeps images together by their path.
        `max_pixels`, `value_range` and `allow_outside` as in `CocoData`.

        Raises:
            FileNotFoundError: `root` is missing.
            ValueError: no split's folder is there, or it has no class folders.
        """
        self.root = Path(root)
        self.folders: dict[str, str] = {"train": train, "val": val, "test": test}
        if not is_store(self.root):
            raise FileNotFoundError(
                f"data.root={root} is no folder; give the folder that holds {train}/ and {val}/"
            )
        self.reading = reading_of(self.root, max_pixels, value_range, allow_outside)
        self._stores: dict[str, ImageStore] = {}
        self.partition = parse_partition(split, group_pattern, split_seed)
        if self.partition is not None:
            self.folders = dict.fromkeys(self.folders, ".")
        found = [name for name in self.folders if self._has(name)]
        if not found:
            raise ValueError(
                f"data.root={root} holds none of the folders {', '.join(self.folders.values())}; wanted "
                f"<root>/{train}/<class>/<images> and the same for {val}, or name them: data.train=… data.val=…"
            )
        self._class_names = self._class_folders(found[0])
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
        if not self._has(name):
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
        store, seen = self._store(name), set()
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
        if self.partition is not None:
            shown = annotations.labels[:, None] == np.arange(len(self._class_names))
            names = [annotations.file_name(i) for i in range(len(annotations))]
            annotations = annotations.select(self.partition.indices(name, names, shown))
        return ImageFolderSplit(self._store(name), annotations)

    def _has(self, name: str) -> bool:
        """Whether there is a folder or an archive of this split."""
        folder = self.root / self.folders[name]
        return is_store(folder) and (folder.is_dir() or bool(self._store(name).names()))

    def _store(self, name: str) -> ImageStore:
        if name not in self._stores:
            self._stores[name] = open_store(self.root / self.folders[name], self.reading)
        return self._stores[name]

    def _class_folders(self, name: str) -> list[str]:
        """Names of the folders of the split, sorted; hidden ones are none. ValueError where there are none."""
        folder = self.root / self.folders[name]
        if folder.is_dir():
            names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
        else:
            names = sorted({file.split("/")[0] for file in self._store(name).names() if "/" in file})
        if not names:
            raise ValueError(
                f"'{folder}' has no folders inside; wanted one per class, with its images: {folder}/<class>/…"
            )
        return names
