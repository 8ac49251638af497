"""Detectors of torchvision's, narrow and with random weights, in the layouts of its published files."""

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.misc import FrozenBatchNorm2d

from tasks.zoo.pretrained import PUBLISHED

SLOTS = 91  # background, COCO's 80 ids and the gaps between them
NARROW = 16
LINEAR = 32


def small_torchvision(name: str, tag: str) -> Any:
    """The model of torchvision called `name` in the version of the weights `tag`, on a ResNet-18."""
    torch.manual_seed(0)
    second = tag == "COCO_V2"
    body = torchvision.models.resnet18(norm_layer=nn.BatchNorm2d if second else FrozenBatchNorm2d)
    layers = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    norm = nn.BatchNorm2d if second else None
    backbone = BackboneWithFPN(body, layers, [64, 128, 256, 512], NARROW, norm_layer=norm)
    options: dict[str, Any] = {
        "rpn_head": RPNHead(NARROW, 3, conv_depth=2 if second else 1),
        "box_head": FastRCNNConvFCHead((NARROW, 7, 7), [NARROW] * 4, [LINEAR], norm_layer=nn.BatchNorm2d)
        if second
        else TwoMLPHead(NARROW * 49, LINEAR),
        "box_predictor": torchvision.models.detection.faster_rcnn.FastRCNNPredictor(LINEAR, SLOTS),
    }
    if name == "mask_rcnn":
        options["mask_head"] = MaskRCNNHeads(NARROW, [NARROW] * 4, 1, norm_layer=norm)
        options["mask_predictor"] = MaskRCNNPredictor(NARROW, NARROW, SLOTS)
    model = (MaskRCNN if name == "mask_rcnn" else FasterRCNN)(backbone, None, **options)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return model.eval()


def publish(monkeypatch, name: str, tag: str) -> bytes:
    """Puts small random weights in the place of the published ones in the table; their file's content."""
    buffer = io.BytesIO()
    torch.save(small_torchvision(name, tag).state_dict(), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    entry = PUBLISHED[name][tag]
    options = {**entry.options, "box_representation_size": LINEAR}
    if name == "mask_rcnn":
        options["mask_width"] = NARROW
    small = dataclasses.replace(
        entry,
        file=f"{name}_{tag}-{digest[:8]}.pth",
        digest=digest,
        backbone={**entry.backbone, "name": "resnet18"},
        pyramid={**entry.pyramid, "channels": NARROW},
        options=options,
    )
    monkeypatch.setitem(PUBLISHED[name], tag, small)
    return content


def write_coco(folder: Path, categories: dict[str, int], *, num_images: int = 3, size: int = 96) -> Path:
    """A COCO folder of noise with a bright square for each category in each image, masks included; its images are
    called val_0.png and so on."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for first_id, split in ((1, "train"), (101, "val")):
        images, annotations = [], []
        (folder / f"{split}2017").mkdir()
        for i in range(num_images):
            pixels = rng.integers(0, 60, (size, size + 16, 3), dtype=np.uint8)
            for j, category_id in enumerate(categories.values()):
                x, y = 4 + 30 * j, int(rng.integers(4, size - 30))
                pixels[y : y + 24, x : x + 24, j % 3] = 220
                corners = [x, y, x + 24, y, x + 24, y + 24, x, y + 24]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": first_id + i, "category_id": category_id, "iscrowd": 0,
                     "bbox": [x, y, 24, 24], "area": 576, "segmentation": [corners]}
                )  # fmt: skip
            name = f"{split}_{i}.png"
            Image.fromarray(pixels).save(folder / f"{split}2017" / name)
            images.append({"id": first_id + i, "file_name": name, "height": size, "width": size + 16})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": category_id, "name": name} for name, category_id in categories.items()],
        }
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return folder
