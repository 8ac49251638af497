"""Model files of every task that predict something in milliseconds, and pictures for them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import new_model, save_model

BACKBONE = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 16, 24, 32]}
PYRAMID = {"name": "fpn", "channels": 16}
RCNN = {
    "box_representation_size": 32, "anchor_sizes": [8, 16, 32, 64, 128], "rpn_post_nms_test": 20,
    "score_threshold": 0.05,
}  # fmt: skip
MODELS = {
    "classification": {"name": "classifier"},
    "detection": {"name": "faster_rcnn", "pyramid": PYRAMID, **RCNN},
    "instance_segmentation": {
        "name": "mask_rcnn", "pyramid": PYRAMID, **RCNN, "mask_width": 8, "mask_layers": 1,
    },
    "semantic_segmentation": {"name": "semantic_fpn", "pyramid": PYRAMID, "channels": 8},
}  # fmt: skip
CLASSES = ["cell", "nucleus", "thing, odd"]
CATEGORY_IDS = [3, 7, 90]


def model_file(task: str, folder: Path, seed: int = 0) -> Path:
    """A file of random weights, large enough for scores that differ."""
    torch.manual_seed(seed)
    spec = {"backbone": BACKBONE, **MODELS[task]}
    model = new_model(task, spec, CLASSES, CATEGORY_IDS, Preprocessing(short_side=None))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = folder / f"{task}.safetensors"
    save_model(path, model, model.header)
    return path


def picture(seed: int, height: int = 64, width: int = 80) -> np.ndarray:
    """uint8 (height, width, 3): blocks of colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """`count` pictures called 000001.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.png" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        Image.fromarray(picture(number)).save(path)
    return paths
