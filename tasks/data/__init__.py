"""From data sets to batches: annotations, formats, quality, augmentation, loading. `open` opens one.

Importing this costs nothing.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.data.sources import Source

FORMATS = {
    "auto": "tasks.data.layouts.auto:open_folder",
    "coco": "tasks.data.formats.coco:CocoData",
    "voc": "tasks.data.formats.voc:VocData",
    "yolo": "tasks.data.formats.yolo:YoloData",
    "xml": "tasks.data.formats.xml_files:XmlData",
    "labelme": "tasks.data.formats.labelme:LabelmeData",
    "cvat": "tasks.data.formats.cvat:CvatData",
    "label_studio": "tasks.data.formats.label_studio:LabelStudioData",
    "csv": "tasks.data.formats.csv_boxes:CsvData",
    "mask_png": "tasks.data.formats.mask_png:MaskPngData",
    "image_folder": "tasks.data.formats.image_folder:ImageFolderData",
    "cifar10": "tasks.data.formats.cifar10:Cifar10Data",
    "digits": "tasks.data.formats.digits:DigitsData",
    "single_digits": "tasks.data.formats.digits:SingleDigitsData",
}
"""The class of each format, "module:class", imported when asked for."""


def open(name: str | Path, **options: Any) -> Source[Any]:
    """The data set in the format called `name`, or, where `name` is a folder, an archive or an annotation file, the one
    that is there (tasks/data/layouts/auto.py). Options are those of `data=` on a command line, as in
    `open("coco", root="path", on_invalid="fix")`. Raises ValueError or FileNotFoundError with what to do."""
    if not isinstance(name, str) or (name not in FORMATS and is_path(name)):
        name, options = "auto", {"root": name, **options}
    if name not in FORMATS:
        raise ValueError(
            f"data={name} is neither a format that is known nor a folder; wanted one of {', '.join(FORMATS)}, or the "
            "path of the data"
        )
    module, attribute = FORMATS[name].split(":")
    source: Source[Any] = getattr(importlib.import_module(module), attribute)(**options)
    if source.opened_as is None:
        source.opened_as = name, options
    return source


def is_path(text: str) -> bool:
    """Whether it can only be a path, or is one that is there."""
    return "/" in text or os.sep in text or os.path.exists(text)
