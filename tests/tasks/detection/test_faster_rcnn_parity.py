"""Our Faster R-CNN against torchvision's: the same weights and photographs, the same losses and detections."""

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection as oracle
from torchvision.ops import box_iou

from tasks.contracts import Batch
from tasks.detection.faster_rcnn import FasterRCNN
from tasks.detection.torchvision_weights import load_torchvision_weights
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model

NUM_CLASSES = 5
ALL = 10**6  # a budget so large that every candidate is sampled, on both sides
FEW = 200  # proposals of an image, for speed
SIZES = [(200, 300), (250, 180), (220, 220)]
V2 = {
    "pyramid": {"name": "fpn", "norm": "batch"},
    "rpn_convs": 2,
    "box_convs": 4,
    "box_linears": 1,
    "box_norm": "batch",
}
VARIANTS = {  # torchvision's builder, and our options for its network
    "v1": (oracle.fasterrcnn_resnet50_fpn, {"pyramid": {"name": "fpn"}}),
    "v2": (oracle.fasterrcnn_resnet50_fpn_v2, V2),
}
OBJECTS = [
    ([[20.0, 30.0, 120.0, 150.0], [150.5, 60.25, 260.0, 190.0], [200.0, 10.0, 216.0, 30.0]], [0, 3, 4]),
    ([[10.0, 100.0, 90.0, 240.0], [60.0, 20.0, 175.0, 120.0]], [2, 0]),
    ([], []),
]


@pytest.fixture(scope="module")
def batch() -> Batch:
    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    photographs.append(photographs[0].flip(-1)[:, 100:330, 200:430])  # a part of one
    height, width = 256, 320
    images = torch.zeros(3, 3, height, width, dtype=torch.uint8)
    boxes, labels = torch.zeros(3, 3, 4), torch.full((3, 3), -1)
    for i, (photograph, (h, w)) in enumerate(zip(photographs, SIZES, strict=True)):
        resized = F.interpolate(photograph[None].float(), (h, w), mode="area")[0]
        images[i, :, :h, :w] = resized.round().to(torch.uint8)
        found = len(OBJECTS[i][1])
        boxes[i, :found] = torch.tensor(OBJECTS[i][0]).view(-1, 4)
        labels[i, :found] = torch.tensor(OBJECTS[i][1])
    sizes = torch.tensor(SIZES)
    return Batch(images, sizes, sizes, torch.arange(3), boxes, labels, torch.zeros(3, 3, dtype=torch.bool))


def to_torchvision(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images, targets = [], []
    for image, (h, w), boxes, labels in zip(
        batch.images, batch.sizes.tolist(), batch.boxes, batch.labels, strict=True
    ):
        images.append(image[:, :h, :w] / 255)
        targets.append({"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1})
    return images, targets


def build_oracle(variant: str, **options) -> oracle.FasterRCNN:
    torch.manual_seed(0)
    build = VARIANTS[variant][0]
    model = build(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        rpn_post_nms_top_n_train=FEW,
        rpn_post_nms_top_n_test=FEW,
        **options,
    )
    model.transform.resize = lambda image, target: (image, target)  # images come in their final size
    return model


def scale_random_heads(model: oracle.FasterRCNN, batch: Batch) -> None:
    """Gives random weights statistics and heads that answer differently from place to place."""
    images, _ = to_torchvision(batch)
    padded = torch.zeros(3, 3, *batch.images.shape[-2:])
    for image, normalized in zip(images, padded, strict=True):
        normalized[:, : image.shape[1], : image.shape[2]] = model.transform.normalize(image)
    # Shortcuts that dominate, as in trained networks: random ones magnify rounding errors 5000 times.
    for name, weight in model.backbone.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.constant_(weight, 0.2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        maps = model.train().backbone(padded)
        model.roi_heads.box_head(
            F.adaptive_avg_pool2d(maps["0"], 7)
        )  # for the statistics of V2's norms, or for nothing
        for norm in norms:
            norm.momentum = 0.1
        model.rpn.head.cls_logits.weight *= 40
        model.rpn.head.bbox_pred.weight *= 5
        model.roi_heads.box_predictor.cls_score.weight *= 12
        model.roi_heads.box_predictor.bbox_pred.weight *= 3


def build_ours(variant: str, weights: dict[str, Tensor], **options) -> FasterRCNN:
    backbone = {"name": "resnet50", "norm": "batch"}
    few = {"rpn_post_nms_train": FEW, "rpn_post_nms_test": FEW}
    spec = {"name": "faster_rcnn", "backbone": backbone, **few, **VARIANTS[variant][1], **options}
    model = build_model(spec, num_classes=NUM_CLASSES, preprocessing=Preprocessing())
    assert isinstance(model, FasterRCNN)
    load_torchvision_weights(model, weights)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch_statistics", [True, False])
def test_losses_equal_torchvisions(batch: Batch, batch_statistics: bool, variant: str) -> None:
    theirs = build_oracle(variant, rpn_batch_size_per_image=ALL, box_batch_size_per_image=ALL)
    scale_random_heads(theirs, batch)
    ours = build_ours(variant, theirs.state_dict(), rpn_samples=ALL, box_samples=ALL)
    images, targets = to_torchvision(batch)
    for model in (theirs, ours):
        model.train()
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train(batch_statistics)
    with torch.no_grad():
        expected = theirs(images, targets)
        losses = ours.losses(ours.features(batch), batch)
    pairs = {
        "loss_objectness": "loss_objectness",
        "loss_rpn_box": "loss_rpn_box_reg",
        "loss_class": "loss_classifier",
        "loss_box": "loss_box_reg",
    }
    assert losses.keys() == pairs.keys()
    for name, their_name in pairs.items():
        torch.testing.assert_close(losses[name], expected[their_name], rtol=1e-4, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_equal_torchvisions(batch: Batch, variant: str) -> None:
    theirs = build_oracle(variant)
    scale_random_heads(theirs, batch)
    ours = build_ours(variant, theirs.state_dict())
    images, _ = to_torchvision(batch)
    with torch.no_grad():
        expected = theirs.eval()(images)
        detections = ours.eval()(batch)
    for i, theirs_found in enumerate(expected):
        found = detections.labels[i] >= 0
        assert int(found.sum()) == len(theirs_found["boxes"]) > 20
        torch.testing.assert_close(detections.scores[i, found], theirs_found["scores"], atol=1e-4, rtol=0)
        assert torch.equal(detections.labels[i, found] + 1, theirs_found["labels"])
        assert len(theirs_found["labels"].unique()) > 1
        assert box_iou(detections.boxes[i, found], theirs_found["boxes"]).diagonal().min() > 0.999
