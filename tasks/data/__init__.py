"""From data sets to batches: annotations, formats, quality, augmentation, loading. `open` opens one by its format.

Importing this costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.data.sources import Source

FORMATS = {
    "coco": "tasks.data.formats.coco:CocoData",
    "voc": "tasks.data.formats.voc:VocData",
    "yolo": "tasks.data.formats.yolo:YoloData",
    "mask_png": "tasks.data.formats.mask_png:MaskPngData",
    "image_folder": "tasks.data.formats.image_folder:ImageFolderData",
    "cifar10": "tasks.data.formats.cifar10:Cifar10Data",
    "digits": "tasks.data.formats.digits:DigitsData",
    "single_digits": "tasks.data.formats.digits:SingleDigitsData",
}
"""The class of each format, "module:class", imported when asked for."""


def open(name: str, **options: Any) -> Source[Any]:
    """The data set in the format called `name`; options are those of `data=` on a command line, as in
    `open("coco", root="path", on_invalid="fix")`. Raises ValueError or FileNotFoundError with what to do."""
    if name not in FORMATS:
        raise ValueError(f"data={name} is not a format that is known; wanted one of {', '.join(FORMATS)}")
    module, attribute = FORMATS[name].split(":")
    return getattr(importlib.import_module(module), attribute)(**options)
