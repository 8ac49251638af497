"""Cross-entropy and dice against torch, hand-computed cases, and their blindness to ignored pixels."""

import math

import pytest
import torch
import torch.nn.functional as F

from tasks.semantic_segmentation.losses import cross_entropy, dice
from tasks.targets import IGNORE_LABEL

LOSSES = (cross_entropy, dice)


def case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (2, 5, 6), generator=generator).to(torch.uint8)
    return torch.randn(2, 3, 5, 6, generator=generator), truth


def test_cross_entropy_is_torchs() -> None:
    logits, truth = case()
    truth[0, :2] = IGNORE_LABEL
    expected = F.cross_entropy(logits, truth.long(), ignore_index=IGNORE_LABEL)
    torch.testing.assert_close(cross_entropy(logits, truth), expected)


def test_dice_by_hand() -> None:
    """Two pixels: one of class 0 that gets 3/4, one of class 1 that gets 1/2. Class 2 is not there."""
    probabilities = torch.tensor([[[[0.75, 0.25]], [[0.25, 0.5]], [[0.0, 0.25]]]])
    truth = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    overlap = (2 * 0.75 / (1.0 + 1), 2 * 0.5 / (0.75 + 1))
    assert dice(probabilities.log(), truth).item() == pytest.approx(1 - sum(overlap) / 2)


def test_dice_by_its_definition() -> None:
    logits, truth = case()
    truth[1, 3:] = IGNORE_LABEL
    known = truth != IGNORE_LABEL
    shares = logits.softmax(dim=1).permute(0, 2, 3, 1)[known]
    member = F.one_hot(truth[known].long(), 3)
    terms = 1 - 2 * (shares * member).sum(0) / (shares.sum(0) + member.sum(0))
    torch.testing.assert_close(dice(logits, truth), terms.mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_perfect_is_zero_and_wrong_is_not(loss) -> None:
    _, truth = case()
    right = 30.0 * F.one_hot(truth.long(), 3).permute(0, 3, 1, 2)
    assert loss(right, truth).item() == pytest.approx(0, abs=1e-6)
    assert loss(right.roll(1, dims=1), truth).item() > 0.99


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_have_no_say(loss) -> None:
    logits, truth = case()
    truth[:, 2] = IGNORE_LABEL
    changed = logits.clone()
    changed[:, :, 2] += torch.randn(3, 1, generator=torch.Generator().manual_seed(1))
    assert loss(logits, truth) == loss(changed, truth)
    changed.requires_grad_()
    loss(changed, truth).backward()
    assert changed.grad is not None
    assert (changed.grad[:, :, 2] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_known_gives_zero_and_no_nan(loss) -> None:
    logits, truth = case()
    logits.requires_grad_()
    value = loss(logits, torch.full_like(truth, IGNORE_LABEL))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_losses_are_computed_in_float32() -> None:
    logits, truth = case()
    for loss in LOSSES:
        assert loss(logits.bfloat16(), truth).dtype == torch.float32
    assert cross_entropy(torch.zeros(1, 4, 2, 2), truth[:1, :2, :2]).item() == pytest.approx(math.log(4))
