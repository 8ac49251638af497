"""The focal losses of sigmoids at every anchor: one pass over the logits each way, and one tensor of their size kept.

Focal Loss for Dense Object Detection (Lin et al., 2017), equation 5, and its form for targets between 0 and 1,
Generalized Focal Loss (Li et al., 2020), equation 2. Nearly all of the (anchor, class) pairs stand for
background, and there are tens of millions in a batch: written with separate operators, each of a dozen of these
reads and writes all of them, and half of what they write is kept for the backward pass.

Legend:
    N  anchors of all images     K  classes; label K means background
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels import kernels_for

_ALPHA = 0.25  # weight of the label's class, the others having 1 - alpha; the exponent is 2 (section 4.1, both papers)
_BLOCK = 1 << 16  # numbers worked on at a time on a CPU, which stay in its cache


def focal_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Losses (...) of the sigmoids of `logits` (..., K) for `labels` (...) in 0 … K, summed over classes."""
    return _focal_losses(logits, labels, _ALPHA)


def quality_focal_losses(logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
    """Losses (...) of the sigmoids p of `logits` (..., K), summed over classes: |y - p|² times cross-entropy with y.

    y is the `quality` (...) in 0 … 1 at the class of `labels` (...) in 0 … K, and 0 for all others.
    """
    others = _focal_losses(logits, labels, alpha=0.0)  # the label's own class weighs nothing there
    own = logits.gather(-1, labels.clamp(max=logits.shape[-1] - 1)[..., None])[..., 0]
    own = own.to(_exact(logits))
    distance = (quality - own.sigmoid()) ** 2
    losses = distance * F.binary_cross_entropy_with_logits(own, quality, reduction="none")
    return others + losses.where(labels < logits.shape[-1], 0)


def _focal_losses(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    losses = _FocalLosses.apply(logits.flatten(0, -2), labels.flatten(), alpha)
    return losses.view(labels.shape)  # type: ignore[union-attr]


class _FocalLosses(torch.autograd.Function):
    """The derivative is computed with the value, from the same logarithms, and is all that is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
        slopes = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        kernels = kernels_for(logits.device)
        if kernels is not None and logits.dtype != torch.float64:
            if slopes is not None:
                ctx.save_for_backward(slopes)
            return kernels.focal_losses(logits, labels, alpha, slopes)
        losses = torch.empty(len(logits), dtype=_exact(logits), device=logits.device)
        for rows in _blocks(logits):
            x = logits[rows].to(losses.dtype)
            p, log = x.sigmoid(), _softplus(x)
            if slopes is not None:  # of p² softplus(x): p² (2 (1 - p) softplus(x) + p)
                slopes[rows] = (1 - p).mul_(log).mul_(2).add_(p).mul_(p).mul_(p).mul_(1 - alpha)
            torch.sum(log.mul_(p).mul_(p), dim=1, out=losses[rows])
        losses *= 1 - alpha
        # The label's own class stands for an object, not for background.
        column = labels.clamp(max=logits.shape[1] - 1)[:, None]
        is_object = labels < logits.shape[1]
        x = logits.gather(1, column)[:, 0].to(losses.dtype)
        p = x.sigmoid()
        of_object = alpha * (1 - p) ** 2 * _softplus(-x)
        losses += (of_object - (1 - alpha) * p**2 * _softplus(x)).where(is_object, 0)
        if slopes is not None:
            own = (-alpha * (1 - p) ** 2 * (2 * p * _softplus(-x) + 1 - p))[:, None].to(slopes.dtype)
            slopes.scatter_(1, column, own.where(is_object[:, None], slopes.gather(1, column)))
            ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0][:, None].to(slopes.dtype), None, None


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), in less than half the time of the operator, exact to 1e-7."""
    return F.relu(x).sub_(x.abs().sigmoid_().log_())


def _exact(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _blocks(logits: Tensor) -> list[slice]:
    if logits.device.type != "cpu" or torch.compiler.is_compiling():  # a graph would be for so many blocks
        return [slice(None)]
    rows = max(1, _BLOCK // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]
