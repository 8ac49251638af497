"""Our RetinaNet and FCOS against torchvision's: the same weights and photographs, the same losses and detections.

One thing differs: torchvision's one-stage detectors keep boxes that lie in the padding and so have no area left
after clipping. Ours drop them, as its R-CNNs do. So all detections are compared, and theirs without those.
"""

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection as oracle

from tasks.contracts import Batch
from tasks.detection.dense_detector import DenseDetector
from tasks.detection.fcos import fcos
from tasks.detection.retinanet import retinanet
from tasks.detection.torchvision_dense_weights import load_torchvision_dense_weights
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model

NUM_CLASSES = 5
ALL = 4000  # detections of an image: more than there are
SIZES = [(200, 300), (250, 180), (220, 220)]
OBJECTS = [
    ([[20.0, 30.0, 120.0, 150.0], [150.5, 60.25, 260.0, 190.0], [200.0, 10.0, 216.0, 30.0]], [0, 3, 4]),
    ([[10.0, 100.0, 90.0, 240.0], [60.0, 20.0, 175.0, 120.0]], [2, 0]),
    ([], []),
]
BACKBONE = {"name": "resnet50", "norm": "batch"}
KINDS = {
    "retinanet": (oracle.retinanet_resnet50_fpn, {"name": "retinanet"}),
    "retinanet_v2": (
        oracle.retinanet_resnet50_fpn_v2,
        {"name": "retinanet", "pyramid": {"extra": "conv_c5"}, "head_norm": "group", "box_loss": "giou"},
    ),
    "fcos": (oracle.fcos_resnet50_fpn, {"name": "fcos"}),
}
NAMES = {"loss_class": "classification", "loss_box": "bbox_regression", "loss_centerness": "bbox_ctrness"}


@pytest.fixture(scope="module")
def batch() -> Batch:
    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    photographs.append(photographs[0].flip(-1)[:, 100:330, 200:430])  # a part of one
    images = torch.zeros(3, 3, 256, 320, dtype=torch.uint8)
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
        targets.append({"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]})
    return images, targets


@pytest.fixture(scope="module", params=KINDS)
def pair(request, batch: Batch) -> tuple[nn.Module, DenseDetector]:
    """Torchvision's network, with statistics and heads that answer differently from place to place, and ours."""
    kind = request.param
    build, options = KINDS[kind]
    torch.manual_seed(0)
    theirs = build(weights=None, weights_backbone=None, num_classes=NUM_CLASSES, detections_per_img=ALL)
    theirs.transform.resize = lambda image, target: (image, target)  # images come in their final size
    images, _ = to_torchvision(batch)
    padded = torch.zeros(3, 3, *batch.images.shape[-2:])
    for image, normalized in zip(images, padded, strict=True):
        normalized[:, : image.shape[1], : image.shape[2]] = theirs.transform.normalize(image)
    # Shortcuts that dominate, as in trained networks: random ones magnify rounding errors 5000 times.
    for name, weight in theirs.backbone.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.constant_(weight, 0.2)
    norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        theirs.train().backbone(padded)
        for norm in norms:
            norm.momentum = 0.1
        for tower in (theirs.head.classification_head.conv, theirs.head.regression_head.conv):
            for layer in tower.modules():
                if isinstance(layer, nn.Conv2d) and kind == "retinanet":
                    layer.weight *= 2
        theirs.head.classification_head.cls_logits.weight *= 6
        theirs.head.classification_head.cls_logits.bias += 2.5
        theirs.head.regression_head.bbox_reg.weight *= 3
        if kind == "fcos":
            theirs.head.regression_head.bbox_reg.bias += 2
            theirs.head.regression_head.bbox_ctrness.weight *= 5
    spec = {"backbone": BACKBONE, "max_detections": ALL, **options}
    model = build_model(spec, num_classes=NUM_CLASSES, preprocessing=Preprocessing())
    assert isinstance(model, DenseDetector)
    load_torchvision_dense_weights(model, theirs.state_dict())
    return theirs, model


def test_losses_equal_torchvisions(pair, batch: Batch) -> None:
    theirs, ours = pair
    images, targets = to_torchvision(batch)
    for model in (theirs, ours):
        model.train()
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()
    with torch.no_grad():
        expected = theirs(images, targets)
        losses = ours.losses(ours.features(batch), batch)
    assert {NAMES[name] for name in losses} == expected.keys()
    for name, loss in losses.items():
        assert loss > 0
        torch.testing.assert_close(loss, expected[NAMES[name]], rtol=1e-4, atol=0)


def test_detections_equal_torchvisions(pair, batch: Batch) -> None:
    theirs, ours = pair
    images, _ = to_torchvision(batch)
    with torch.no_grad():
        expected = theirs.eval()(images)
        detections = ours.eval()(batch)
    for i, theirs_found in enumerate(expected):
        has_area = ((theirs_found["boxes"][:, 2:] - theirs_found["boxes"][:, :2]) >= 0.01).all(dim=1)
        theirs_found = {name: values[has_area] for name, values in theirs_found.items()}
        found = detections.labels[i] >= 0
        assert int(found.sum()) == len(theirs_found["boxes"]) > 20
        torch.testing.assert_close(detections.scores[i, found], theirs_found["scores"], atol=1e-4, rtol=0)
        assert len(theirs_found["labels"].unique()) > 1
        # By pairs and not by order, because rounding exchanges neighbours of nearly the same score.
        equal = detections.labels[i, found][:, None] == theirs_found["labels"]
        equal &= (detections.scores[i, found][:, None] - theirs_found["scores"]).abs() < 1e-4
        equal &= torch.cdist(detections.boxes[i, found], theirs_found["boxes"], p=torch.inf) < 0.02
        assert equal.any(dim=0).all()
        assert equal.any(dim=1).all()


def test_weights_in_the_names_of_torchvision_0_12() -> None:
    """The published RetinaNet's file is as old: convolutions numbered with their activations."""
    theirs = oracle.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_CLASSES)
    ours = retinanet(num_classes=NUM_CLASSES, backbone=BACKBONE)
    load_torchvision_dense_weights(ours, theirs.state_dict())
    old = {}
    for key, value in theirs.state_dict().items():
        if ".conv." in key:
            parts = key.split(".")
            key = ".".join([*parts[:3], str(2 * int(parts[3])), parts[5]])
        if "inner_blocks" in key or "layer_blocks" in key:
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[key] = value
    model = retinanet(num_classes=NUM_CLASSES, backbone=BACKBONE)
    load_torchvision_dense_weights(model, old)
    mine = ours.state_dict()
    assert all(
        torch.equal(value, mine[key]) for key, value in model.state_dict().items() if "num_b" not in key
    )


def test_slots_of_the_published_classes() -> None:
    """91 slots, of which two are wanted, at every anchor of a cell."""
    theirs = oracle.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    ours = retinanet(num_classes=2, backbone=BACKBONE)
    load_torchvision_dense_weights(ours, theirs.state_dict(), category_ids=[3, 90])
    rows = theirs.head.classification_head.cls_logits.weight.view(9, 91, 256, 3, 3)
    mine = ours.heads[0].classes.weight.view(2, 9, 256, 3, 3)
    assert mine[0].equal(rows[:, 3])
    assert mine[1].equal(rows[:, 90])


@pytest.mark.parametrize(
    ("num_classes", "category_ids", "message"),
    [
        (3, None, "the weights know 5 classes and the model 3"),
        (3, [1, 2], "category_ids names 2 slots and the model has 3 classes"),
        (2, [1, 5], "category_ids has 5; the weights have slots 0 to 4"),
    ],
)
def test_classes_that_do_not_fit(num_classes: int, category_ids: list[int] | None, message: str) -> None:
    theirs = oracle.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    model = fcos(num_classes=num_classes, backbone=BACKBONE)
    with pytest.raises(ValueError, match=message):
        load_torchvision_dense_weights(model, theirs.state_dict(), category_ids=category_ids)


def test_weights_of_something_else() -> None:
    model = fcos(num_classes=2, backbone={"name": "resnet18"})
    with pytest.raises(ValueError, match="not the weights of a torchvision RetinaNet or FCOS"):
        load_torchvision_dense_weights(model, {"fc.weight": torch.zeros(2, 2)})
    theirs = oracle.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    with pytest.raises(ValueError, match="the weights do not fit the model"):
        load_torchvision_dense_weights(model, theirs.state_dict())
