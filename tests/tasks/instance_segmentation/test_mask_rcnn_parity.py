"""Our Mask R-CNN against torchvision's: the same weights and photographs, the same losses, detections and masks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection as oracle
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from tasks.contracts import Batch
from tasks.data.annotations.masks import cropped
from tasks.data.loading.collate import join_masks
from tasks.instance_segmentation.mask_head import MaskHead, MaskHeadSettings
from tasks.instance_segmentation.mask_rcnn import MaskRCNN, mask_rcnn
from tasks.instance_segmentation.mask_targets import sample_masks
from tasks.instance_segmentation.torchvision_weights import load_torchvision_weights
from tasks.metrics.run_lengths import bitmaps
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model

NUM_CLASSES = 4
ALL = 10**6  # a budget so large that every candidate is sampled, on both sides
FEW = 200  # proposals of an image, for speed
SIZES = [(160, 240), (200, 144)]
HEIGHT, WIDTH = 224, 256
OBJECTS = [
    ([[20.0, 30.0, 120.0, 150.0], [130.5, 40.25, 239.0, 159.0], [200.0, 10.0, 216.0, 30.0]], [0, 3, 2]),
    ([], []),
]


V2 = {
    "pyramid": {"name": "fpn", "norm": "batch"},
    "rpn_convs": 2,
    "box_convs": 4,
    "box_linears": 1,
    "box_norm": "batch",
    "mask_norm": "batch",
}
VARIANTS = {  # torchvision's builder, and our options for its network
    "v1": (oracle.maskrcnn_resnet50_fpn, {"pyramid": {"name": "fpn"}}),
    "v2": (oracle.maskrcnn_resnet50_fpn_v2, V2),
}


def ellipse(box: list[float], height: int, width: int) -> np.ndarray:
    """uint8 (height, width): the ellipse inside a box."""
    x0, y0, x1, y1 = box
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = ((columns - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + (
        (rows - (y0 + y1) / 2) / ((y1 - y0) / 2)
    ) ** 2
    return (inside <= 1).astype(np.uint8)


@pytest.fixture(scope="module")
def masks() -> list[np.ndarray]:
    """uint8 (N, h, w) for each image."""
    return [
        np.array([ellipse(box, h, w) for box in boxes], np.uint8).reshape(-1, h, w)
        for (boxes, _), (h, w) in zip(OBJECTS, SIZES, strict=True)
    ]


@pytest.fixture(scope="module")
def batch(masks: list[np.ndarray]) -> Batch:
    images = torch.zeros(2, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    boxes, labels = torch.zeros(2, 3, 4), torch.full((2, 3), -1)
    for i, (photograph, (h, w)) in enumerate(zip(load_sample_images().images, SIZES, strict=True)):
        pixels = torch.tensor(photograph).permute(2, 0, 1)[None].float()
        images[i, :, :h, :w] = F.interpolate(pixels, (h, w), mode="area")[0].round().to(torch.uint8)
        found = len(OBJECTS[i][1])
        boxes[i, :found] = torch.tensor(OBJECTS[i][0]).view(-1, 4)
        labels[i, :found] = torch.tensor(OBJECTS[i][1])
    sizes = torch.tensor(SIZES)
    mask_pixels, mask_places = join_masks([[cropped(m) for m in of_image] for of_image in masks], 3)
    crowd = torch.zeros(2, 3, dtype=torch.bool)
    return Batch(
        images,
        sizes,
        sizes,
        torch.arange(2),
        boxes,
        labels,
        crowd,
        mask_pixels=mask_pixels,
        mask_places=mask_places,
    )


def to_torchvision(batch: Batch, masks: list[np.ndarray]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images, targets = [], []
    for i, (h, w) in enumerate(batch.sizes.tolist()):
        images.append(batch.images[i, :, :h, :w] / 255)
        valid = batch.labels[i] >= 0
        targets.append(
            {
                "boxes": batch.boxes[i, valid],
                "labels": batch.labels[i, valid] + 1,
                "masks": torch.from_numpy(masks[i]),
            }
        )
    return images, targets


def build_oracle(variant: str, batch: Batch, masks: list[np.ndarray], **options: Any) -> Any:
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
    images, _ = to_torchvision(batch, masks)
    padded = torch.zeros(2, 3, HEIGHT, WIDTH)
    for image, normalized in zip(images, padded, strict=True):
        normalized[:, : image.shape[1], : image.shape[2]] = model.transform.normalize(image)
    for name, weight in model.backbone.named_parameters():
        if name.endswith("bn3.weight"):  # shortcuts that dominate, as in trained networks
            nn.init.constant_(weight, 0.2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        maps = model.train().backbone(padded)
        for head, size in ((model.roi_heads.box_head, 7), (model.roi_heads.mask_head, 14)):
            head(F.adaptive_avg_pool2d(maps["0"], size))  # for the statistics of V2's norms, or for nothing
        model.rpn.head.cls_logits.weight *= 40
        model.rpn.head.bbox_pred.weight *= 5
        model.roi_heads.box_predictor.cls_score.weight *= 12
        model.roi_heads.box_predictor.bbox_pred.weight *= 3
        model.roi_heads.mask_predictor.mask_fcn_logits.weight *= 5
    return model.eval()


def build_ours(variant: str, weights: dict[str, Tensor], **options: Any) -> MaskRCNN:
    backbone = {"name": "resnet50"}
    few = {"rpn_post_nms_train": FEW, "rpn_post_nms_test": FEW}
    spec = {"name": "mask_rcnn", "backbone": backbone, **few, **VARIANTS[variant][1], **options}
    model = build_model(spec, num_classes=NUM_CLASSES, preprocessing=Preprocessing())
    assert isinstance(model, MaskRCNN)
    load_torchvision_weights(model, weights)
    return model.eval()


def their_sampling(masks: list[np.ndarray]) -> Callable[..., Tensor]:
    """`sample_masks` by torchvision; all objects lie in the first image, in the order of their places."""

    def sample(pixels: Tensor, places: Tensor, boxes: Tensor, sizes: Tensor, size: int) -> Tensor:
        starts, index = places[:, 0].unique(return_inverse=True)
        assert len(starts) == len(masks[0])
        return project_masks_on_boxes(torch.from_numpy(masks[0]), boxes, index, size)

    return sample


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("their_targets", [False, True], ids=["our targets", "their targets"])
def test_losses_equal_torchvisions(
    batch: Batch, masks: list[np.ndarray], their_targets: bool, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = build_oracle(variant, batch, masks, rpn_batch_size_per_image=ALL, box_batch_size_per_image=ALL)
    ours = build_ours(variant, theirs.state_dict(), rpn_samples=ALL, box_samples=ALL)
    theirs.train()
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    expected = theirs(*to_torchvision(batch, masks))
    if their_targets:
        monkeypatch.setattr("tasks.instance_segmentation.mask_rcnn.sample_masks", their_sampling(masks))
    losses = ours.losses(ours.features(batch), batch)
    pairs = {
        "loss_objectness": "loss_objectness",
        "loss_rpn_box": "loss_rpn_box_reg",
        "loss_class": "loss_classifier",
        "loss_box": "loss_box_reg",
        "loss_mask": "loss_mask",
    }
    assert losses.keys() == pairs.keys()
    for name, their_name in pairs.items():
        # Their own targets come from more sampling points in large boxes.
        tolerance = 2e-3 if name == "loss_mask" and not their_targets else 1e-4
        torch.testing.assert_close(losses[name], expected[their_name], rtol=tolerance, atol=0)


def test_targets_of_small_boxes_equal_torchvisions(batch: Batch, masks: list[np.ndarray]) -> None:
    """Up to two pixels a cell torchvision takes 2 x 2 points at most, as ours does."""
    torch.manual_seed(0)
    corner = torch.rand(200, 2) * torch.tensor([200.0, 120.0])
    side = 28.01 + torch.rand(200, 2) * 27.9
    boxes = torch.cat((corner, (corner + side).minimum(torch.tensor([240.0, 160.0]))), dim=1)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 28).all(dim=1)]
    for k in range(3):
        index = torch.full((len(boxes),), k)
        expected = project_masks_on_boxes(torch.from_numpy(masks[0]), boxes, index, 28)
        assert batch.mask_pixels is not None and batch.mask_places is not None
        sizes = torch.tensor(SIZES[0]).expand(len(boxes), 2)
        ours = sample_masks(batch.mask_pixels, batch.mask_places[0, index], boxes, sizes, 28)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_and_masks_equal_torchvisions(batch: Batch, masks: list[np.ndarray], variant: str) -> None:
    theirs = build_oracle(variant, batch, masks)
    ours = build_ours(variant, theirs.state_dict())
    expected = theirs(to_torchvision(batch, masks)[0])
    detections = ours(batch)
    for i, (theirs_found, (height, width)) in enumerate(zip(expected, SIZES, strict=True)):
        found = detections.labels[i] >= 0
        assert int(found.sum()) == len(theirs_found["boxes"]) > 20
        torch.testing.assert_close(detections.scores[i, found], theirs_found["scores"], atol=1e-4, rtol=0)
        assert torch.equal(detections.labels[i, found] + 1, theirs_found["labels"])
        boxes = theirs_found["boxes"]
        torch.testing.assert_close(detections.boxes[i, found], boxes, atol=5e-3, rtol=0)
        # Inside their boxes: a mask's corners become whole pixels, so that a rounding error may move it by one.
        for mask, their_mask in zip(
            bitmaps(detections.masks[i, found], boxes, height, width), theirs_found["masks"], strict=True
        ):
            full = np.zeros((height, width), bool)
            h, w = mask.bitmap.shape
            full[mask.top : mask.top + h, mask.left : mask.left + w] = mask.bitmap
            expected_mask = (their_mask[0] > 0.5).numpy()
            assert (full != expected_mask).sum() <= max(1, 0.01 * (full | expected_mask).sum())


def test_pasting_equals_torchvisions_pixel_for_pixel() -> None:
    torch.manual_seed(0)
    masks = F.avg_pool2d(torch.rand(60, 1, 30, 30), 3, 1)
    corner = torch.rand(60, 2) * 180 - 10
    boxes = torch.cat((corner, corner + torch.rand(60, 2) * 90), dim=1).clamp(min=0)
    boxes = boxes.minimum(torch.tensor([200.0, 150.0, 200.0, 150.0]))
    expected = paste_masks_in_image(masks, boxes, (150, 200))[:, 0] > 0.5
    assert expected.any()
    for mask, pasted in zip(bitmaps(masks[:, 0], boxes, 150, 200), expected, strict=True):
        full = np.zeros((150, 200), bool)
        h, w = mask.bitmap.shape
        full[mask.top : mask.top + h, mask.left : mask.left + w] = mask.bitmap
        assert (full == pasted.numpy()).all()


def test_weights_of_a_detector_without_masks_are_refused() -> None:
    model = mask_rcnn(num_classes=2, backbone={"name": "resnet18"}, pyramid={"name": "fpn", "channels": 8})
    with pytest.raises(ValueError, match="no mask predictor"):
        load_torchvision_weights(model, {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("boxes", [5, 0])
def test_masks_of_the_classes_alone_equal_the_layers_one_after_another(
    boxes: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    settings = MaskHeadSettings(mask_roi_size=6, mask_layers=0, mask_width=8)
    head = MaskHead(8, NUM_CLASSES, settings).to(dtype)
    nn.init.normal_(head.upsample.bias)  # type: ignore[arg-type]
    nn.init.normal_(head.masks.bias)  # type: ignore[arg-type]
    features, labels = torch.randn(boxes, 8, 6, 6, dtype=dtype), torch.arange(boxes) % NUM_CLASSES
    expected = head.masks(F.relu(head.upsample(features)))[torch.arange(boxes), labels]
    found = head._masks_of(features, labels)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    weights = (head.upsample.weight, head.upsample.bias, head.masks.weight, head.masks.bias)
    gradients = [torch.autograd.grad((maps**2).sum(), weights) for maps in (found, expected)]  # type: ignore[arg-type]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
