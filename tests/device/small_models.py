"""A small network of every kind, and batches for all of them, with any number of images of any size."""

from typing import Any

import numpy as np
import torch

from tasks.contracts import Batch, Model
from tasks.data.loading.collate import collate
from tasks.preprocessing import Preprocessing
from tasks.targets import ObjectMask, Target
from tasks.zoo.registry import build_model

NUM_CLASSES = 3
PREPROCESSING = Preprocessing(short_side=None)
BACKBONE = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 16, 24, 32]}
PYRAMID = {"name": "fpn", "channels": 16}
RCNN = {
    "box_representation_size": 32, "anchor_sizes": [4, 8, 16, 32, 64], "rpn_post_nms_train": 50,
    "rpn_post_nms_test": 20, "score_threshold": 0.0,
}  # fmt: skip
MASK = {**RCNN, "mask_width": 8, "mask_layers": 1}
DENSE = {"head_layers": 1, "score_threshold": 0.0}
YOLOX = {"width": 0.0625, "score_threshold": 0.0}
MODELS: dict[str, dict[str, Any]] = {
    "classifier": {},
    "classifier smooth": {"label_smoothing": 0.1, "class_weights": [1.0, 2.0, 3.0]},
    "classifier checkpointed": {"backbone": {**BACKBONE, "checkpoint_stages": [1, 2]}},
    "classifier frozen": {"backbone": {**BACKBONE, "norm": "frozen"}},
    "classifier group": {"backbone": {**BACKBONE, "norm": "group"}},
    "semantic_fpn": {"pyramid": PYRAMID, "channels": 8},
    "semantic_fpn dice": {"pyramid": PYRAMID, "channels": 8, "loss": "cross_entropy+dice"},
    "deeplabv3": {"channels": 8},
    "faster_rcnn": {"pyramid": PYRAMID, **RCNN},
    "faster_rcnn ciou": {
        "pyramid": PYRAMID, **RCNN, "box_loss": "ciou", "rpn_box_loss": "giou", "class_loss": "focal",
        "box_convs": 1, "box_norm": "group",
    },
    "faster_rcnn cascade": {"pyramid": PYRAMID, **RCNN, "cascade": [0.5, 0.6, 0.7]},
    "mask_rcnn cascade": {"pyramid": PYRAMID, **MASK, "cascade": [0.5, 0.6, 0.7]},
    "mask_rcnn": {"pyramid": PYRAMID, **MASK},
    "retinanet": {"pyramid": PYRAMID, **DENSE, "anchor_sizes": [4, 8, 16, 32, 48]},
    "retinanet giou": {
        "pyramid": PYRAMID, **DENSE, "anchor_sizes": [4, 8, 16, 32, 48], "head_norm": "group", "box_loss": "giou",
    },
    "fcos": {"pyramid": PYRAMID, **DENSE},
    "fcos diou": {"pyramid": PYRAMID, **DENSE, "box_loss": "diou", "class_loss": "cross_entropy"},
    "fcos ciou": {"pyramid": PYRAMID, **DENSE, "box_loss": "ciou"},
    "fcos quality": {"pyramid": PYRAMID, **DENSE, "class_loss": "quality_focal"},
    "gfl": {"pyramid": PYRAMID, **DENSE},
    "gfl task_aligned": {"pyramid": PYRAMID, **DENSE, "assignment": "task_aligned"},
    "yolox": {"pyramid": {**PYRAMID, "name": "pafpn"}, **YOLOX},
    "yolox iou": {"pyramid": {**PYRAMID, "name": "pafpn"}, **YOLOX, "box_loss": "iou", "class_loss": "focal"},
}  # fmt: skip


def small_model(kind: str) -> Model:
    """The model of `MODELS`; the first word of its name is that of its builder."""
    torch.manual_seed(0)
    name = kind.split()[0]
    spec = {"name": name, "backbone": BACKBONE, **MODELS[kind]}
    model = build_model(spec, num_classes=NUM_CLASSES, preprocessing=PREPROCESSING)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_batch(num_images: int, height: int = 96, width: int = 128, *, pin: bool = True) -> Batch:
    """Images of differing valid sizes with objects, masks, classes and class maps; image ids count from 0."""
    generator = np.random.default_rng(num_images)
    samples = [_sample(i, height - 8 * (i % 3), width - 8 * (i % 2), generator) for i in range(num_images)]
    batch = collate(samples, PREPROCESSING)
    return batch.pin_memory() if pin else batch


def _sample(
    number: int, height: int, width: int, generator: np.random.Generator
) -> tuple[np.ndarray, Target]:
    count = number % 4  # some without objects
    corner = generator.uniform(0, 0.5, (count, 2)) * (width, height)
    size = generator.uniform(0.1, 0.5, (count, 2)) * (width, height)
    boxes = np.concatenate((corner, corner + size), axis=1).astype(np.float32)
    masks = [
        ObjectMask(x1, y1, np.ones((y2 - y1, x2 - x1), np.uint8))
        for x1, y1, x2, y2 in boxes.astype(int).tolist()
    ]
    target = Target(
        image_id=number,
        original_size=(2 * height, 2 * width),
        boxes=boxes,
        labels=np.arange(count, dtype=np.int64) % NUM_CLASSES,
        is_crowd=np.arange(count) == 2,
        masks=masks,
        class_id=number % NUM_CLASSES,
        class_map=generator.integers(0, NUM_CLASSES, (height, width)).astype(np.uint8),
    )
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8), target
