"""Puts the weights of torchvision's `fasterrcnn_resnet50_fpn` or its `_v2`, on any ResNet, into our model.

What differs between the two:
    names       the table below, and keys as torchvision wrote them before 0.13
    background  the first class there, the last here
    box deltas  torchvision keeps four rows for background that nothing ever reads; they are dropped
    fc6         reads channel, row, column there, and row, column, channel here
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from backbones.loading import load_exactly

from .faster_rcnn import FasterRCNN

BACKBONE_NAMES = {
    r"backbone\.body\.": "backbone.backbone.",
    r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$": r"backbone.fpn.\1_blocks.\2.0.\3",
    r"backbone\.fpn\.": "backbone.fpn.",
}
_NAMES = {
    **BACKBONE_NAMES,
    r"rpn\.head\.conv\.(0\.0\.)?(weight|bias)$": r"rpn.convs.0.\2",
    r"rpn\.head\.conv\.1\.0\.": "rpn.convs.2.",  # every second of ours is a ReLU
    r"rpn\.head\.cls_logits\.": "rpn.objectness.",
    r"rpn\.head\.bbox_pred\.": "rpn.deltas.",
    r"roi_heads\.box_head\.fc": "roi_head.head.fc",
    r"roi_heads\.box_head\.(\d+)\.([01])\.": r"roi_head.head.convs.\1.\2.",
    r"roi_heads\.box_head\.\d+\.(weight|bias)$": r"roi_head.head.fc6.\1",
    r"roi_heads\.box_predictor\.cls_score\.": "roi_head.classes.",
    r"roi_heads\.box_predictor\.bbox_pred\.": "roi_head.deltas.",
}


def load_torchvision_weights(
    model: FasterRCNN, state_dict: Mapping[str, Tensor], *, category_ids: Sequence[int] | None = None
) -> None:
    """Copies all of `state_dict`, a torchvision Faster R-CNN's, into `model`, which then computes the same.

    Class k of the model becomes slot `category_ids[k]` of torchvision's classes, of which 0 is background;
    without `category_ids`, slot k + 1. For the published COCO weights, whose 91 slots are COCO's gapped ids,
    give the 80 ids in use; `COCO_V1` also wants a backbone with `norm="frozen", norm_eps=0.0`.

    Raises:
        ValueError: another number of classes, or weights of another architecture. The model is then unchanged.
    """
    load_converted(
        model, convert(state_dict, model.num_classes, model.roi_head.settings.box_roi_size, category_ids)
    )


def load_converted(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies `weights`, under the names of `model` and all of them, into it.

    Raises:
        ValueError: they do not fit. The model is then unchanged.
    """
    load_exactly(
        model,
        weights,
        "the weights do not fit the model",
        "build the model with the backbone, pyramid and settings that the weights were trained with",
    )


def convert(
    state_dict: Mapping[str, Tensor],
    num_classes: int,
    roi_size: int,
    category_ids: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """`state_dict` under our names and in our order of rows; keys that the table does not know stay.

    Raises:
        ValueError: the classes do not fit `num_classes`, or there is no box predictor at all.
    """
    weights = {renamed(key, _NAMES): value for key, value in state_dict.items()}
    needed = [
        f"roi_head.{layer}" for layer in ("classes.weight", "classes.bias", "deltas.weight", "deltas.bias")
    ]
    absent = [key for key in (*needed, "roi_head.head.fc6.weight") if key not in weights]
    if absent:
        raise ValueError(
            f"these are not the weights of a torchvision Faster R-CNN: nothing stands for {', '.join(absent)}; "
            f"give the state dict of torchvision.models.detection.fasterrcnn_resnet50_fpn or one like it"
        )
    slots = torch.tensor(class_slots(len(weights["roi_head.classes.bias"]), num_classes, category_ids))
    rows = torch.cat((slots, torch.zeros(1, dtype=torch.int64)))  # background, their slot 0, goes last
    for name in ("weight", "bias"):
        weights[f"roi_head.classes.{name}"] = weights[f"roi_head.classes.{name}"][rows]
        deltas = weights[f"roi_head.deltas.{name}"]
        weights[f"roi_head.deltas.{name}"] = deltas.unflatten(0, (-1, 4))[slots].flatten(0, 1)
    fc6 = weights["roi_head.head.fc6.weight"]
    if fc6.shape[1] % roi_size**2:
        raise ValueError(
            f"the box head of the weights reads {fc6.shape[1]} values, which cannot be cells of "
            f"box_roi_size={roi_size}; build the model with the roi size the weights were trained with"
        )
    fc6 = fc6.unflatten(1, (-1, roi_size, roi_size)).permute(0, 2, 3, 1).flatten(1)
    weights["roi_head.head.fc6.weight"] = fc6
    return weights


def class_slots(
    num_slots: int, num_classes: int, category_ids: Sequence[int] | None, *, first: int = 1
) -> list[int]:
    """Torchvision's slot for each of our classes; `first` is 1 where slot 0 must be background, and 0 where it may
    stand for a class."""
    if category_ids is None:
        if num_slots - num_classes not in range(first, 2):
            raise ValueError(
                f"the weights know {num_slots - first} classes and the model {num_classes}; build it with "
                f"num_classes={num_slots - first}, or give category_ids, the slot of the weights for each class"
            )
        return list(range(num_slots - num_classes, num_slots))
    if len(category_ids) != num_classes:
        raise ValueError(
            f"category_ids names {len(category_ids)} slots and the model has {num_classes} classes; "
            f"give one slot for each class"
        )
    wrong = [slot for slot in category_ids if not first <= slot < num_slots]
    if wrong:
        background = " (0 is background)" if first else ""
        raise ValueError(
            f"category_ids has {wrong[0]}; the weights have slots {first} to {num_slots - 1}{background}"
        )
    return list(category_ids)


def renamed(key: str, names: Mapping[str, str]) -> str:
    """`key` after the first of the patterns in `names` that it begins with, or as it is."""
    for pattern, ours in names.items():
        ours, found = re.subn(f"^{pattern}", ours, key)
        if found:
            return ours
    return key
