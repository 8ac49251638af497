"""Box heads one after another, beside the formulas of Cascade R-CNN written as loops; one head is the plain one."""

import math

import pytest
import torch
from torch import Tensor, nn

from tasks.contracts import Batch
from tasks.detection.cascade import CascadeHead
from tasks.detection.faster_rcnn import FasterRCNN
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model
from tests.device.small_models import BACKBONE, MASK, PYRAMID, RCNN, make_batch
from tests.tasks.detection.assignment_loops import overlap

IOUS = [0.5, 0.6, 0.7]


def build(name: str = "faster_rcnn", **options) -> FasterRCNN:
    torch.manual_seed(0)
    of_name = MASK if name == "mask_rcnn" else RCNN
    spec = {"name": name, "backbone": BACKBONE, "pyramid": PYRAMID, **of_name, **options}
    model = build_model(spec, num_classes=3, preprocessing=Preprocessing(short_side=None))
    assert isinstance(model, FasterRCNN)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch(4, pin=False)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_one_head_is_the_plain_one_to_the_bit(name: str, batch: Batch) -> None:
    plain, one = build(name), build(name, cascade=[0.5])
    assert plain.state_dict().keys() == one.state_dict().keys()
    found = []
    for model in (plain, one):
        torch.manual_seed(3)
        with torch.no_grad():
            features = model.features(batch)
            found.append((model.losses(features, batch), model.eval().predictions(features, batch)))
    assert found[0][0] == found[1][0]
    for part in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(found[0][1], part), getattr(found[1][1], part))
    assert build(name, cascade=[0.6]).roi_head.settings.box_foreground_iou == 0.6


def lively(name: str = "faster_rcnn") -> tuple[FasterRCNN, CascadeHead]:
    """A cascade whose random heads move boxes."""
    model = build(name, cascade=IOUS)
    cascade = model.roi_head
    assert isinstance(cascade, CascadeHead)
    for head in cascade.heads:
        nn.init.normal_(head.deltas.weight, std=0.3)
        nn.init.normal_(head.classes.weight, std=0.3)
    return model.eval(), cascade


def moved(box: list[float], deltas: list[float], weights: list[float], size: list[int]) -> list[float]:
    """A box after its deltas, cut to the image of `size` (height, width)."""
    width, height = box[2] - box[0], box[3] - box[1]
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, weights, strict=True))
    x, y = (box[0] + box[2]) / 2 + dx * width, (box[1] + box[3]) / 2 + dy * height
    width, height = width * math.exp(dw), height * math.exp(dh)
    sides = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return [min(max(0.0, side), size[1 - i % 2]) for i, side in enumerate(sides)]


def weights_of(number: int) -> list[float]:
    return [[10.0, 10, 5, 5], [20.0, 20, 10, 10], [30.0, 30, 15, 15]][number]


def moved_all(boxes: Tensor, deltas: Tensor, number: int, batch: Batch) -> Tensor:
    sizes = batch.sizes.tolist()
    return torch.tensor(
        [
            [moved(box, d[0], weights_of(number), size) for box, d in zip(*pair, strict=True)]
            for *pair, size in zip(boxes.tolist(), deltas.tolist(), sizes, strict=True)
        ]
    )


def losses_by_hand(
    logits: list, deltas: list, boxes: list, objects: list[tuple[list[float], int]], iou: float, number: int
) -> tuple[float, float, int]:
    """Sums of both losses over the boxes of an image, and how many are positive."""
    of_classes, of_boxes, positives = 0.0, 0.0, 0
    for x, d, box in zip(logits, deltas, boxes, strict=True):
        overlaps = [overlap(box, gt) for gt, _ in objects]
        best = max(range(len(objects)), key=lambda i: overlaps[i]) if objects else -1
        label = objects[best][1] if objects and overlaps[best] >= iou else 3
        of_classes -= math.log(math.exp(x[label]) / sum(map(math.exp, x)))
        if label == 3:
            continue
        positives += 1
        gt = objects[best][0]
        width, height = box[2] - box[0], box[3] - box[1]
        gt_width, gt_height = gt[2] - gt[0], gt[3] - gt[1]
        wanted = [
            (gt[0] + gt_width / 2 - box[0] - width / 2) / width,
            (gt[1] + gt_height / 2 - box[1] - height / 2) / height,
            math.log(gt_width / width),
            math.log(gt_height / height),
        ]
        for value, target, weight in zip(d[0], wanted, weights_of(number), strict=True):
            far = abs(value - target * weight)
            of_boxes += 4.5 * far**2 if far < 1 / 9 else far - 1 / 18
    return of_classes, of_boxes, positives


def test_losses_are_those_of_the_formulas_in_loops(batch: Batch) -> None:
    model, cascade = lively()
    with torch.no_grad():
        features = model.features(batch)
        torch.manual_seed(5)
        losses = model.losses(features, batch)
        torch.manual_seed(5)
        samples = model.sample(features, batch)
    boxes, valid = samples.boxes, samples.valid
    rows = ((batch.labels >= 0) & ~batch.is_crowd).tolist()
    objects = [
        [
            (batch.boxes[i, j].tolist(), int(batch.labels[i, j]))
            for j, is_object in enumerate(row)
            if is_object
        ]
        for i, row in enumerate(rows)
    ]
    counts = []
    for number, (head, iou) in enumerate(zip(cascade.heads, IOUS, strict=True)):
        with torch.no_grad():
            logits, deltas = head(features.table, boxes, valid)
        sums = [0.0, 0.0, 0]
        for i in range(len(batch)):
            of_image = (rows[i][valid[i]].tolist() for rows in (logits, deltas, boxes))
            by_hand = losses_by_hand(*of_image, objects[i], iou, number)
            sums = [total + value for total, value in zip(sums, by_hand, strict=True)]
        counts.append(sums[2])
        for name, value in zip(("loss_class", "loss_box"), sums[:2], strict=True):
            expected = torch.tensor(value / int(valid.sum()) / 2**number)
            suffix = f"_{number + 1}" if number else ""
            torch.testing.assert_close(losses[name + suffix], expected, rtol=1e-4, atol=1e-6)
        boxes = moved_all(boxes, deltas, number, batch)
        thin = ((boxes[..., 2:] - boxes[..., :2]) < 1e-3).any(dim=-1)
        valid = valid & ~thin
    assert counts[0] > 3 and counts[1] > 0 and counts[0] != counts[1]
    assert len(losses) == 2 + 6


def test_scores_are_the_mean_of_all_heads_on_the_last_boxes(batch: Batch) -> None:
    model, cascade = lively()
    with torch.no_grad():
        features = model.features(batch)
        boxes, valid = model.rpn.propose(features.anchors, batch.sizes, pre_nms=1000, post_nms=20)
        found = model.predictions(features, batch)
        for number, head in enumerate(cascade.heads[:2]):
            _, deltas = head(features.table, boxes, valid)
            boxes = moved_all(boxes, deltas, number, batch)
        shares = torch.stack(
            [head(features.table, boxes, valid)[0].softmax(dim=-1) for head in cascade.heads]
        )
        _, deltas = cascade.heads[2](features.table, boxes, valid)
        last = moved_all(boxes, deltas, 2, batch)
    scores = shares.mean(dim=0)[..., :3]
    for image in range(len(batch)):
        kept = found.labels[image] >= 0
        assert kept.sum() >= 5
        for box, score, label in zip(
            found.boxes[image][kept], found.scores[image][kept], found.labels[image][kept], strict=True
        ):
            same = ((last[image] - box).abs() < 1e-2).all(dim=1) & valid[image]
            assert ((scores[image, :, label] - score).abs()[same] < 1e-4).any()


def test_boxes_are_no_way_back_for_gradients_and_masks_learn_from_the_last_head(batch: Batch) -> None:
    model, _ = lively("mask_rcnn")
    features = model.features(batch)
    losses, samples = model.box_losses(features, batch)
    assert not samples.boxes.requires_grad
    losses["loss_box_3"].total.backward()
    gradients = [head.deltas.weight.grad for head in model.roi_head.heads]  # type: ignore[union-attr]
    assert gradients[0] is None and gradients[1] is None and gradients[2] is not None
    assert model.losses(features, batch).keys() == losses.keys() | {"loss_mask"}


def test_wild_deltas_leave_no_detection(batch: Batch) -> None:
    model, cascade = lively()
    with torch.no_grad():
        cascade.heads[0].deltas.bias.fill_(float("nan"))
        assert (model(batch).labels == -1).all()


@pytest.mark.parametrize("cascade", [[], [0.5, 1.5], [0.0]])
def test_bad_overlaps_are_one_sentence(cascade: list[float]) -> None:
    with pytest.raises(
        ValueError, match=r"model.cascade=.* must be overlaps between 0 and 1, one for each box head"
    ):
        build(cascade=cascade)
