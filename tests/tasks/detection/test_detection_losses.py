import math

import torch

from tasks.detection.losses import class_loss, delta_loss, objectness_loss


def test_objectness_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0, 5.0]])
    positive = torch.tensor([[True, False, False]])
    valid = torch.tensor([[True, True, False]])
    expected = (math.log(2) + math.log(1 + math.e**2)) / 2
    torch.testing.assert_close(objectness_loss(logits, positive, valid), torch.tensor(expected))


def test_delta_loss_by_hand() -> None:
    deltas = torch.tensor([[[1.0, 0.0, 0.0, 0.1], [9.0, 9.0, 9.0, 9.0]]])
    targets = torch.zeros(1, 2, 4)
    targets[0, 1] = -math.inf  # what stands at a negative box must not be read
    positive = torch.tensor([[True, False]])
    expected = (1 - 1 / 18) + 0.1**2 * 9 / 2  # linear past 1/9, square below
    loss = delta_loss(deltas, targets, positive, torch.tensor(2))
    torch.testing.assert_close(loss, torch.tensor(expected / 2))


def test_class_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0, math.log(2)], [5.0, 0.0, 0.0]]])
    loss = class_loss(logits, torch.tensor([[2, 0]]), torch.tensor([[True, False]]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_nothing_sampled_is_zero_with_a_gradient() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    logits = torch.randn(1, 3, requires_grad=True)
    deltas = torch.randn(1, 3, 4, requires_grad=True)
    classes = torch.randn(1, 3, 6, requires_grad=True)
    loss = (
        objectness_loss(logits, nothing, nothing)
        + delta_loss(deltas, torch.full((1, 3, 4), torch.nan), nothing, nothing.sum())
        + class_loss(classes, torch.full((1, 3), 5), nothing)
    )
    loss.backward()
    assert loss.item() == 0
    for tensor in (logits, deltas, classes):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() == 0
