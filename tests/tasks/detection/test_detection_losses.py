import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torchvision import ops

from tasks.detection.losses import (
    BoxLoss,
    ClassLoss,
    box_losses,
    check_loss,
    class_loss,
    dense_class_losses,
    objectness_loss,
    sampled_box_loss,
)
from tasks.detection.overlap_losses import ciou_loss, diou_loss, giou_loss
from tasks.distributed import LossSum, normalized


def mean(loss: LossSum) -> Tensor:
    return normalized({"loss": loss})["loss"]


def test_objectness_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0, 5.0]])
    positive = torch.tensor([[True, False, False]])
    valid = torch.tensor([[True, True, False]])
    expected = (math.log(2) + math.log(1 + math.e**2)) / 2
    torch.testing.assert_close(mean(objectness_loss(logits, positive, valid)), torch.tensor(expected))


def shift(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas for these tests: the plain difference."""
    return boxes - anchors


def move(deltas: Tensor, anchors: Tensor) -> Tensor:
    return anchors + deltas


def test_sampled_box_loss_by_hand() -> None:
    deltas = torch.tensor([[[1.0, 0.0, 0.0, 0.1], [9.0, 9.0, 9.0, 9.0]]])
    boxes = torch.zeros(1, 2, 4)
    boxes[0, 1] = -math.inf  # what stands at a negative box must not be read
    positive = torch.tensor([[True, False]])
    loss = sampled_box_loss(
        deltas, torch.zeros(1, 2, 4), boxes, positive, torch.tensor(2), "smooth_l1", encode=shift, decode=move
    )
    expected = (1 - 1 / 18) + 0.1**2 * 9 / 2  # linear past 1/9, square below
    torch.testing.assert_close(mean(loss), torch.tensor(expected / 2))


# Boxes of 4 x 2 and 2 x 4 with one corner at (0, 0): 4 shared of 12, in a square of 4 x 4. Centres (2, 1) and
# (1, 2) are sqrt(2) apart, the square's diagonal is sqrt(32).
CENTRES = 2 / 32
V = 4 / math.pi**2 * (math.atan(4 / 2) - math.atan(2 / 4)) ** 2
BY_HAND = {
    "l1": 4.0,  # two sides differ by 2
    "smooth_l1": 2 * (2 - 1 / 18),
    "iou": 1 - 1 / 3,
    "giou": 1 - 1 / 3 + (16 - 12) / 16,
    "diou": 1 - 1 / 3 + CENTRES,
    "ciou": 1 - 1 / 3 + CENTRES + V * V / (1 - 1 / 3 + V),
}


@pytest.mark.parametrize("kind", get_args(BoxLoss))
def test_box_losses_by_hand(kind: BoxLoss) -> None:
    anchors = torch.tensor([[0.0, 0, 2, 2]])
    deltas = torch.tensor([[0.0, 0, 2, 0]], requires_grad=True)
    gt_boxes = torch.tensor([[0.0, 0, 2, 4]])
    loss = box_losses(deltas, anchors, gt_boxes, kind, encode=shift, decode=move)
    torch.testing.assert_close(loss, torch.tensor([BY_HAND[kind]]))
    loss.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad[0, 2] > 0  # too far to the right
    assert deltas.grad[0, 3] < 0  # too high
    same = box_losses(gt_boxes - anchors, anchors, gt_boxes, kind, encode=shift, decode=move)
    torch.testing.assert_close(same, torch.zeros(1), atol=1e-6, rtol=0)
    nothing = box_losses(deltas[:0], anchors[:0], gt_boxes[:0], kind, encode=shift, decode=move)
    assert nothing.shape == (0,)


@pytest.mark.parametrize("kind", get_args(BoxLoss))
def test_box_losses_of_boxes_without_area_are_finite(kind: BoxLoss) -> None:
    deltas = torch.zeros(2, 4, requires_grad=True)
    point = torch.tensor([[5.0, 5, 5, 5], [0, 0, 0, 0]])
    gt_boxes = torch.tensor([[4.0, 4, 8, 8], [10, 10, 11, 12]])
    loss = box_losses(deltas, point, gt_boxes, kind, encode=shift, decode=move)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()


def test_dense_class_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    labels = torch.tensor([0, 2])  # the first class, and background
    entropy = dense_class_losses(logits, labels, "cross_entropy")
    torch.testing.assert_close(entropy, torch.tensor([math.log(2) + math.log(4)] * 2))
    focal = dense_class_losses(logits, labels, "focal")
    rest = 0.75 * 0.75**2 * math.log(4)
    expected = [0.25 * 0.5**2 * math.log(2) + rest, 0.75 * 0.5**2 * math.log(2) + rest]
    torch.testing.assert_close(focal, torch.tensor(expected))
    half = dense_class_losses(logits[:1], labels[:1], "cross_entropy", quality=torch.tensor([0.5]))
    torch.testing.assert_close(
        half, torch.tensor([math.log(2) + math.log(4)])
    )  # of p = 1/2 whatever is wanted
    assert dense_class_losses(logits[:0], labels[:0], "focal", quality=torch.zeros(0)).shape == (0,)


def test_unknown_losses() -> None:
    with pytest.raises(ValueError, match="box_loss=gio is unknown; wanted one of l1, smooth_l1, iou, giou"):
        check_loss("box_loss", "gio", BoxLoss)
    with pytest.raises(ValueError, match="class_loss=fokal is unknown; wanted one of cross_entropy, focal"):
        check_loss("class_loss", "fokal", ClassLoss)


def test_class_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0, math.log(2)], [5.0, 0.0, 0.0]]])
    loss = class_loss(logits, torch.tensor([[2, 0]]), torch.tensor([[True, False]]))
    torch.testing.assert_close(mean(loss), torch.tensor(math.log(2)))
    focal = class_loss(logits, torch.tensor([[2, 0]]), torch.tensor([[True, False]]), "focal")
    torch.testing.assert_close(mean(focal), torch.tensor(math.log(2) / 4))


def test_nothing_sampled_is_zero_with_a_gradient() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    logits = torch.randn(1, 3, requires_grad=True)
    deltas = torch.randn(1, 3, 4, requires_grad=True)
    classes = torch.randn(1, 3, 6, requires_grad=True)
    boxes = sampled_box_loss(
        deltas,
        torch.zeros(1, 3, 4),
        torch.full((1, 3, 4), torch.nan),
        nothing,
        nothing.sum(),
        "ciou",
        encode=shift,
        decode=move,
    )
    labels = torch.full((1, 3), 5)
    sums = {
        "objectness": objectness_loss(logits, nothing, nothing),
        "boxes": boxes,
        "classes": class_loss(classes, labels, nothing),
    }
    loss = torch.stack(list(normalized(sums).values())).sum()
    loss.backward()
    assert loss.item() == 0
    for tensor in (logits, deltas, classes):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        (giou_loss, ops.generalized_box_iou_loss),
        (diou_loss, ops.distance_box_iou_loss),
        (ciou_loss, ops.complete_box_iou_loss),
    ],
)
def test_overlap_losses_are_torchvisions(own, theirs) -> None:
    """Values and gradients, of boxes that overlap, only touch, lie apart or inside each other, or are the same."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, 2, generator=generator) * 40
    boxes = torch.cat((corners, corners + 1 + torch.rand(200, 2, 2, generator=generator) * 30), dim=-1)
    boxes[:3] = torch.tensor([[0.0, 0, 4, 4], [4.0, 0, 8, 4]])
    boxes[3] = torch.tensor([[0.0, 0, 4, 4], [1.0, 1, 2, 2]])
    boxes[4, 1] = boxes[4, 0]
    results = []
    for function in (own, theirs):
        box, gt_box = (rows.clone().requires_grad_() for rows in boxes.unbind(1))
        losses = function(box, gt_box)
        losses.sum().backward()
        results.append((losses, box.grad, gt_box.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)
