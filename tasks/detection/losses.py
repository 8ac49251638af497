"""Losses of two-stage detectors over sampled boxes; padding and background are masked, not selected.

Each is a sum divided by the number of samples of the whole batch, so it stays connected to its inputs
(with a gradient of zero) when nothing is left to sum. Computed in float32.

Legend:
    B  images     S  samples of each image     K  classes; label K means background
"""

from torch import Tensor
from torch.nn import functional as F

_BETA = 1 / 9  # where smooth L1 turns linear: Detectron's sigma = 3


def objectness_loss(logits: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy of `logits` (B, S) with `positive` (B, S), averaged over `valid` (B, S)."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), reduction="none")
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def delta_loss(deltas: Tensor, targets: Tensor, positive: Tensor, num_samples: Tensor) -> Tensor:
    """Smooth L1 between `deltas` and `targets` (B, S, 4), summed over `positive` (B, S).

    Divided by `num_samples`, all samples and not the positives alone (Fast R-CNN, section 2.3, equation 1).
    What `targets` hold elsewhere is not read.
    """
    targets = targets.where(positive[..., None], 0)  # infinite times zero would be NaN
    losses = F.smooth_l1_loss(deltas.float(), targets, beta=_BETA, reduction="none").sum(dim=-1)
    return (losses * positive).sum() / num_samples.clamp(min=1)


def class_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of `logits` (B, S, K + 1) with `labels` (B, S) in 0 … K, averaged over `valid` (B, S)."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return (losses * valid.flatten()).sum() / valid.sum().clamp(min=1)
