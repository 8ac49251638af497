"""A data set in YOLO's layout: boxes and polygons in fractions of the image, as told by its data.yaml."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np

from tasks.data.class_maps import PaintedClassMaps
from tasks.data.coco import CocoSplit
from tasks.data.image_checks import CheckImages, check_check_images, image_size
from tasks.data.on_bad import OnBad, check_on_bad, usable_annotations
from tasks.data.partition import parse_partition
from tasks.data.raw_split import RawSplit
from tasks.data.sources import SplitName
from tasks.data.stores import is_folder
from tasks.data.yolo_files import YoloLabels, label_file, list_images, read_data_yaml, read_labels, ring_area


class YoloData:
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
        """
        Args:
            root: the folder that holds data.yaml, or a tar or zip file or a folder in one; what it names may lie in
                such files too.
            file: its name. Its "path", where that is a folder here, is what "train", "val" and "test" in it are
                relative to; else its own folder is.
            on_bad: what happens to bad annotations and images (tasks/data/on_bad.py).
            check_images: how image files are looked at before that.
            masks: read polygons.
            max_images: keep only the first so many images of each split, to try something out.
            split: shares such as "0.8/0.1/0.1": part the images of "train" (tasks/data/partition.py).
            group_pattern: a regular expression; images from whose path it takes the same text stay together.
            split_seed: another one parts them otherwise.

        Raises:
            FileNotFoundError: there is no data.yaml.
            ValueError: it has no names, or a setting is none.
        """
        check_on_bad(on_bad)
        check_check_images(check_images)
        self.root = Path(root).expanduser()
        self.content = read_data_yaml(self.root / file)
        base = self.root / str(self.content.get("path") or "")
        self.base = base if is_folder(base) else self.root
        self.on_bad: OnBad = on_bad
        self.check_images: CheckImages = check_images
        self.masks = masks
        self.max_images = max_images
        self.partition = parse_partition(split, group_pattern, split_seed)
        self._splits: dict[str, CocoSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(self.content["names"])

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the class numbers, which are the labels."""
        return np.arange(len(self.content["names"]))

    def with_masks(self) -> Self:
        """The same data with the masks of its objects."""
        source = copy(self)
        source.masks, source._splits = True, {}
        return source

    def class_maps(self) -> PaintedClassMaps:
        """The same images with the class of each pixel, painted from the masks of the objects."""
        return PaintedClassMaps(self.with_masks())

    def split(self, name: SplitName) -> CocoSplit:
        """The split, read and checked on the first call.

        Raises FileNotFoundError or ValueError, with one sentence, for whatever is missing or malformed.
        """
        if name not in self._splits:
            annotations = usable_annotations(self, name, self.on_bad, self.check_images)
            self._splits[name] = CocoSplit(self._folder(name), annotations)
        return self._splits[name]

    def _folder(self, name: str) -> Path:
        """What the names of a split's images are relative to: its folder, where it is one."""
        place = self.content[name if self.partition is None else "train"]
        folder = self.base / str(place)
        return folder if not isinstance(place, list) and is_folder(folder) else self.base

    def declares(self, name: str) -> bool:
        """Whether data.yaml says where such a split is."""
        if self.partition is not None:
            return self.partition.declares(name)
        return bool(self.content.get(name))

    def raw(self, name: str, *, segmentations: bool = False) -> RawSplit:
        """The split as its files say, unchecked; `segmentations` reads polygons even without `masks`. Objects are
        numbered from 1: to pycocotools' matching, id 0 means no object."""
        entry = name if self.partition is None else "train"
        if not self.content.get(entry):
            raise ValueError(
                f"the data set has no {entry} split; say where its images are in data.yaml: '{entry}: …'"
            )
        folder = self._folder(name)
        files = list_images(self.base, self.content[entry], folder, entry)
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
        sizes = np.array([image_size(folder / file) for file in files], np.int64)
        rows = np.repeat(np.arange(len(files)), [len(item.classes) for item in labels])
        classes = [number for item in labels for number in item.classes]
        known = range(len(self.content["names"]))
        scale = np.tile(sizes[rows, ::-1], 2).astype(np.float64)
        scale[scale == 0] = 1  # of an image that cannot be read; it is told of for that
        boxes = np.concatenate([item.boxes for item in labels]) * scale
        rings = [ring for item in labels for ring in item.rings]
        masks: list[Any] = [
            [] if ring is None else [[value * scale[row, i % 2] for i, value in enumerate(ring)]]
            for row, ring in enumerate(rings)
        ]
        raw = RawSplit(
            name=name,
            source=f"{self.base}/{self.content[entry]}",
            folder=folder,
            folder_option="data.root",
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=np.arange(len(files)),
            file_names=files,
            sizes=sizes,
            ids=np.arange(1, len(rows) + 1),
            written_images=rows,
            written_categories=np.array([str(number) for number in classes], str),
            images=rows,
            labels=np.array([n if n in known else -1 for n in classes], np.int64),
            boxes=boxes,
            areas=np.array(
                [
                    box[2] * box[3] if not mask else ring_area(mask[0])
                    for box, mask in zip(boxes, masks, strict=True)
                ]
            ),
            is_crowd=np.zeros(len(rows), bool),
            segmentations=masks if self.masks or segmentations else None,
            is_normalised=True,
            unreadable=unreadable,
        )
        if self.partition is not None:
            raw = self.partition.part(raw, name)
            raw = raw if self.max_images is None else raw.select(np.arange(min(self.max_images, len(raw))))
        return raw
