"""The focal loss in one pass, against torchvision's operator and finite differences."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from tasks.detection import focal_loss
from tasks.detection.focal_loss import focal_losses


def both(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (2, 700, 5), one set for each way, and labels with background among them."""
    torch.manual_seed(0)
    logits = (torch.randn(2, 700, 5) * 6).to(dtype)
    labels = torch.randint(6, (2, 700))
    return logits.clone().requires_grad_(), logits.clone().requires_grad_(), labels


def reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    targets = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].float()
    return sigmoid_focal_loss(logits.float(), targets).sum(dim=-1)


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_values_and_gradients_are_torchvisions(block: int, monkeypatch) -> None:
    monkeypatch.setattr(focal_loss, "_BLOCK", block)
    mine, theirs, labels = both()
    weights = torch.rand(labels.shape)
    found, expected = focal_losses(mine, labels), reference(theirs, labels)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_bf16_is_computed_in_float32() -> None:
    mine, theirs, labels = both(torch.bfloat16)
    found, expected = focal_losses(mine, labels), reference(theirs, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_gradient_by_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: focal_losses(x, torch.tensor([0, 1, 2, 3, 3, 1])), logits)


def test_certain_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    losses = focal_losses(logits, torch.tensor([1, 0]))
    losses.sum().backward()
    torch.testing.assert_close(losses, torch.tensor([0.75 * 200 + 0.25 * 200, 0.0]))
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_no_anchor() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    focal_losses(logits, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert logits.grad is not None and logits.grad.shape == (0, 4)
