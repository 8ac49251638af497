"""Lists of transforms of training images by name, as plain values. Importing this costs nothing.

`configs/augmentation/` has more of them, for the command line alone.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

_OURS = "tasks.data.augmentation."
FLIP: dict[str, Any] = {"_target_": "albumentations.HorizontalFlip"}

NAMED: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "flip": [FLIP],
    # Mirrored or not, the shorter side at 80 to 100 % of preprocessing.short_side (640 to 800, as Detectron2 trains).
    "standard": [FLIP, {"_target_": f"{_OURS}scale.MultiScale"}],
    # For small data sets and long runs: mosaics and pieces of other images, crops, colour, blur, several scales.
    "strong": [
        {"_target_": f"{_OURS}multi_image.Mosaic", "p": 0.5, "close_mosaic_epochs": 2},
        {"_target_": f"{_OURS}multi_image.CutMix", "p": 0.15, "close_mosaic_epochs": 2},
        {"_target_": f"{_OURS}scale.CropKeepingBoxes", "p": 0.3},
        FLIP,
        {
            "_target_": "albumentations.ColorJitter",
            "brightness": [0.7, 1.3],
            "contrast": [0.7, 1.3],
            "saturation": [0.6, 1.4],
            "hue": [-0.02, 0.02],
            "p": 0.8,
        },
        {"_target_": "albumentations.GaussianBlur", "sigma_limit": [0.5, 1.5], "p": 0.1},
        {"_target_": f"{_OURS}scale.MultiScale", "scale": [0.6, 1.0]},
    ],
}
"""Name to transforms in their order, each the address of a class and its arguments."""


def transforms(name: str) -> Sequence[Any]:
    """The transforms that `NAMED` has under `name`."""
    return [_built(node) for node in NAMED[name]]


def _built(node: Mapping[str, Any]) -> Any:
    module, _, kind = str(node["_target_"]).rpartition(".")
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    return getattr(importlib.import_module(module), kind)(**arguments)
