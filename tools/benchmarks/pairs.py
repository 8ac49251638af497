"""Our networks and torchvision's with the same weights, and the same images and objects for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection as torchvision_detection
from torchvision.models import resnet50
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from tasks.classification.classifier import classifier
from tasks.classification.torchvision_weights import load_torchvision_weights
from tasks.contracts import Batch, Model
from tasks.data.loading.collate import join_masks
from tasks.detection import torchvision_weights as box_weights
from tasks.detection.faster_rcnn import faster_rcnn
from tasks.detection.fcos import fcos
from tasks.detection.retinanet import retinanet
from tasks.detection.torchvision_dense_weights import load_torchvision_dense_weights
from tasks.instance_segmentation import torchvision_weights as mask_weights
from tasks.instance_segmentation.mask_rcnn import mask_rcnn
from tasks.targets import ObjectMask

NUM_CLASSES = 80
EVERY_ONE = 10**6  # a number of samples so large that none is left out


class Pair(NamedTuple):
    """How a detector of ours and torchvision's come to have the same weights."""

    build: Callable[..., Any]
    load: Callable[..., None]
    theirs: type[nn.Module]
    background: int
    """Slots of torchvision's classes that stand for nothing."""
    backbone: Mapping[str, Any] = {}
    """Further arguments of torchvision's backbone."""

    def make(self) -> tuple[Any, Any]:
        """Ours and torchvision's with frozen norms, stem and first stage; their weights are not the same yet."""
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            trainable_layers=3,
            **deepcopy(dict(self.backbone)),  # layers among them, which move with their network
        )
        # Shortcuts that dominate, as in trained networks, so that maps do not grow from block to block.
        for name, value in backbone.named_buffers():
            if name.endswith("bn3.weight"):
                value.fill_(0.2)
        frozen = {"name": "resnet50", "norm": "frozen", "frozen_stages": 1}
        ours = self.build(num_classes=NUM_CLASSES, backbone=frozen)
        return ours, self.theirs(backbone, NUM_CLASSES + self.background)


P3_TO_P7 = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
PAIRS = {
    "faster_rcnn_r50_fpn": Pair(
        faster_rcnn, box_weights.load_torchvision_weights, torchvision_detection.FasterRCNN, 1
    ),
    "mask_rcnn_r50_fpn": Pair(
        mask_rcnn, mask_weights.load_torchvision_weights, torchvision_detection.MaskRCNN, 1
    ),
    "retinanet_r50_fpn": Pair(
        retinanet, load_torchvision_dense_weights, torchvision_detection.RetinaNet, 0, P3_TO_P7
    ),
    "fcos_r50_fpn": Pair(fcos, load_torchvision_dense_weights, torchvision_detection.FCOS, 0, P3_TO_P7),
}


def detector_pair(name: str, batch: Batch, *, spread: float = 2.0) -> tuple[Model, Any]:
    """Ours and torchvision's network called `name`, whose answers differ from place to place of `batch`.

    `spread` is the standard deviation of a dense detector's logits there.
    """
    if name not in PAIRS:
        raise SystemExit(f"error: --model {name} is unknown; there are {', '.join(PAIRS)}")
    torch.manual_seed(0)
    pair = PAIRS[name]
    ours, theirs = pair.make()
    theirs.transform.resize = lambda image, target: (image, target)  # the images have their size already
    scale_random_heads(theirs, batch, spread)
    pair.load(ours, theirs.state_dict())
    return ours.train(), theirs.train()


def scale_random_heads(theirs: Any, batch: Batch, of_dense: float) -> None:
    """Scales the last layers of random weights to the spread of answers that trained ones give."""
    if hasattr(theirs, "rpn"):
        spread = {theirs.rpn.head.cls_logits: 2.0, theirs.roi_heads.box_predictor.cls_score: 2.5}
    else:
        spread = {theirs.head.classification_head.cls_logits: of_dense}
        if hasattr(theirs.head.regression_head, "bbox_ctrness"):
            # Of random weights half the boxes of FCOS have no area, which it keeps and we drop.
            nn.init.ones_(theirs.head.regression_head.bbox_reg.bias)
    for layer, wanted in spread.items():
        seen: list[Tensor] = []
        hook = layer.register_forward_hook(lambda layer, given, out, seen=seen: seen.append(out.flatten()))
        with torch.no_grad():
            theirs.eval()([to_images(batch)[0]])
            hook.remove()
            layer.weight *= wanted / torch.cat(seen).std()


def use_every_sample(ours: Any, theirs: Any) -> Callable[[], None]:
    """Makes both draw all samples instead of random ones, so that their losses can be compared; returns what
    undoes it."""
    if not hasattr(ours, "rpn"):
        return lambda: None  # dense losses are of all anchors
    every_one = [
        (ours.rpn, "settings", replace(ours.rpn.settings, rpn_samples=EVERY_ONE)),
        (ours.roi_head, "settings", replace(ours.roi_head.settings, box_samples=EVERY_ONE)),
        (theirs.rpn.fg_bg_sampler, "batch_size_per_image", EVERY_ONE),
        (theirs.roi_heads.fg_bg_sampler, "batch_size_per_image", EVERY_ONE),
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in every_one]

    def put(values: list[tuple[Any, str, Any]]) -> None:
        for place, name, value in values:
            setattr(place, name, value)

    put(every_one)
    return lambda: put(before)


LOSSES = {  # torchvision's names of our losses
    "loss_objectness": "loss_objectness",
    "loss_rpn_box": "loss_rpn_box_reg",
    "loss_class": "loss_classifier",
    "loss_box": "loss_box_reg",
    "loss_mask": "loss_mask",
}
DENSE_LOSSES = {
    "loss_class": "classification",
    "loss_box": "bbox_regression",
    "loss_centerness": "bbox_ctrness",
}


def compare_losses(ours: Any, theirs: Any, batch: Batch) -> str:
    """Raises AssertionError where the losses of both differ by more than a thousandth of their size."""
    undo = use_every_sample(ours, theirs)
    with torch.no_grad():
        mine = ours.losses(ours.features(batch), batch)
        other = theirs(to_images(batch), to_targets(batch, theirs))
    undo()
    names = LOSSES if hasattr(ours, "rpn") else DENSE_LOSSES
    differences = {name: abs(float(mine[name] / other[names[name]]) - 1) for name in mine}
    assert max(differences.values()) < 1e-3, differences
    return f"{len(mine)} losses equal within {max(differences.values()):.0e}"


def our_loss(model: Any, batch: Batch) -> Tensor:
    """The sum of our losses."""
    return torch.stack(list(model.losses(model.features(batch), batch).values())).sum()


def their_loss(model: Any, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
    """The sum of torchvision's."""
    return torch.stack(list(model(images, targets).values())).sum()


def classifier_pair() -> tuple[Any, Any]:
    """ResNet-50 of ours and of torchvision with the same weights."""
    torch.manual_seed(0)
    theirs = resnet50(weights=None)
    ours = classifier(num_classes=1000, backbone={"name": "resnet50"})
    load_torchvision_weights(ours, theirs.state_dict())
    return ours.train(), theirs.train()


def make_batch(
    num_images: int, height: int, width: int, num_objects: int, *, masks: bool = True, seed: int = 0
) -> Batch:
    """Images of smooth noise with objects, ellipses of all sizes, at random places."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_images, 3, math.ceil(height / 16), math.ceil(width / 16), generator=generator)
    images = nn.functional.interpolate(coarse, (height, width), mode="bilinear").mul(255).to(torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    limits = torch.tensor([width, height])
    sides = (torch.rand(num_images, num_objects, 2, generator=generator) ** 2 * 0.5 + 0.03) * limits
    corners = torch.rand(num_images, num_objects, 2, generator=generator) * (limits - sides)
    boxes = torch.cat((corners, corners + sides), dim=-1)
    sizes = torch.tensor([[height, width]] * num_images)
    labels = torch.randint(NUM_CLASSES, (num_images, num_objects), generator=generator)
    pixels, places = join_masks([[_ellipse(box) for box in of_image] for of_image in boxes], num_objects)
    return Batch(
        images,
        sizes,
        sizes,
        torch.arange(num_images),
        boxes,
        labels,
        torch.zeros_like(labels, dtype=torch.bool),
        mask_pixels=pixels if masks else None,
        mask_places=places if masks else None,
    )


def _ellipse(box: Tensor) -> ObjectMask:
    x0, y0, x1, y1 = box.tolist()
    left, top = int(x0), int(y0)
    rows, columns = np.mgrid[top : math.ceil(y1), left : math.ceil(x1)] + 0.5
    inside = ((columns - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((rows - (y0 + y1) / 2) / (y1 - y0)) ** 2 <= 0.25
    return ObjectMask(left, top, inside.astype(np.uint8))


def to_images(batch: Batch) -> list[Tensor]:
    """The images as torchvision's detectors take them."""
    return list(batch.images.contiguous().float() / 255)


def to_targets(batch: Batch, theirs: nn.Module) -> list[dict[str, Tensor]]:
    """The objects as torchvision's detector `theirs` takes them, masks of full size where there are any."""
    background = int(hasattr(theirs, "rpn"))
    targets = [
        {"boxes": boxes, "labels": labels + background}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    if batch.mask_pixels is not None and batch.mask_places is not None:
        for target, places in zip(targets, batch.mask_places.tolist(), strict=True):
            masks = torch.zeros(len(places), *batch.images.shape[2:], dtype=torch.uint8)
            for mask, (start, left, top, width, height) in zip(masks, places, strict=True):
                bitmap = batch.mask_pixels[start : start + width * height].view(height, width).cpu()
                mask[top : top + height, left : left + width] = bitmap
            target["masks"] = masks.to(batch.images.device)
    return targets
