"""Puts the weights of torchvision's `maskrcnn_resnet50_fpn` or its `_v2`, on any ResNet, into our model."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tasks.detection import torchvision_weights as detection

from .mask_rcnn import MaskRCNN

_LAYER = re.compile(  # before 0.13, after; with norms 1 is the norm
    r"roi_heads\.mask_head\.(?:mask_fcn(\d+)|(\d+)\.([01]))\.(\w+)"
)
_NAMES = {
    r"roi_heads\.mask_predictor\.conv5_mask\.": "mask_head.upsample.",
    r"roi_heads\.mask_predictor\.mask_fcn_logits\.": "mask_head.masks.",
}


def load_torchvision_weights(
    model: MaskRCNN, state_dict: Mapping[str, Tensor], *, category_ids: Sequence[int] | None = None
) -> None:
    """Copies all of `state_dict`, a torchvision Mask R-CNN's, into `model`, which then computes the same.

    `category_ids` are those of `tasks.detection.torchvision_weights.load_torchvision_weights`.

    Raises:
        ValueError: another number of classes, or weights of another architecture. The model is then unchanged.
    """
    per_block = 3 if "roi_heads.mask_head.0.1.weight" in state_dict else 2  # convolution, norm, ReLU
    weights = {_rename(key, per_block): value for key, value in state_dict.items()}
    if "mask_head.masks.bias" not in weights:
        raise ValueError(
            "these are not the weights of a torchvision Mask R-CNN: there is no mask predictor; give the state dict "
            "of torchvision.models.detection.maskrcnn_resnet50_fpn or one like it, or build a faster_rcnn"
        )
    slots = detection.class_slots(len(weights["mask_head.masks.bias"]), model.num_classes, category_ids)
    for name in ("mask_head.masks.weight", "mask_head.masks.bias"):
        weights[name] = weights[name][torch.tensor(slots)]
    detection.load_torchvision_weights(model, weights, category_ids=category_ids)


def _rename(key: str, per_block: int) -> str:
    if found := _LAYER.fullmatch(key):
        old, new, part, name = found.groups()
        index = per_block * (int(old) - 1) if old is not None else per_block * int(new) + int(part)
        return f"mask_head.convs.{index}.{name}"
    return detection.renamed(key, _NAMES)
