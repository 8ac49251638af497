"""Puts the weights of torchvision's `maskrcnn_resnet50_fpn`, or of any ResNet with its FPN, into our model."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tasks.detection import torchvision_weights as detection
from tasks.detection.torchvision_weights import class_slots

from .mask_rcnn import MaskRCNN

_CONVOLUTION = re.compile(
    r"roi_heads\.mask_head\.(?:mask_fcn(\d+)|(\d+)\.0)\.(weight|bias)"
)  # before 0.13, after
_NAMES = {
    "roi_heads.mask_predictor.conv5_mask.": "mask_head.upsample.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "mask_head.masks.",
}


def load_torchvision_weights(
    model: MaskRCNN, state_dict: Mapping[str, Tensor], *, category_ids: Sequence[int] | None = None
) -> None:
    """Copies all of `state_dict`, a torchvision Mask R-CNN's, into `model`, which then computes the same.

    `category_ids` are those of `tasks.detection.torchvision_weights.load_torchvision_weights`.

    Raises:
        ValueError: another number of classes, or weights of another architecture. The model is then unchanged.
    """
    weights = {_rename(key): value for key, value in state_dict.items()}
    if "mask_head.masks.bias" not in weights:
        raise ValueError(
            "these are not the weights of a torchvision Mask R-CNN: there is no mask predictor; give the state dict "
            "of torchvision.models.detection.maskrcnn_resnet50_fpn or one like it, or build a faster_rcnn"
        )
    slots = class_slots(len(weights["mask_head.masks.bias"]), model.num_classes, category_ids)
    for name in ("mask_head.masks.weight", "mask_head.masks.bias"):
        weights[name] = weights[name][torch.tensor(slots)]
    detection.load_torchvision_weights(model, weights, category_ids=category_ids)


def _rename(key: str) -> str:
    if found := _CONVOLUTION.fullmatch(key):
        old, new, name = found.groups()
        index = int(old) - 1 if old is not None else int(new)
        return f"mask_head.convs.{2 * index}.{name}"
    for theirs, ours in _NAMES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key
