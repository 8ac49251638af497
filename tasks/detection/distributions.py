"""The sides of boxes as distributions: how likely each is so many strides away from an anchor's centre.

Generalized Focal Loss (Li et al., 2020), section 3.

Legend:
    D  distances that a side can be at: 0, 1 … D - 1
"""

import torch
from torch import Tensor

_MARGIN = 0.1  # a target stays so far below the last distance, as one beyond it could not be put between two


def expected_distances(logits: Tensor) -> Tensor:
    """Distances (..., 4) in 0 … D - 1: the means of the softmaxes of `logits` (..., 4 D), side by side (equation 5)."""
    shares = logits.float().unflatten(-1, (4, -1)).softmax(dim=-1)
    return shares @ torch.arange(shares.shape[-1], dtype=shares.dtype, device=shares.device)


def distribution_focal_losses(logits: Tensor, distances: Tensor) -> Tensor:
    """Losses (...) of `logits` (..., 4 D) for `distances` (..., 4), the mean of the four sides, in float32.

    A side between distances i and i + 1 shall have their probabilities, each by how near it is (equation 6).
    """
    log_shares = logits.float().unflatten(-1, (4, -1)).log_softmax(dim=-1)
    distances = distances.clamp(0, log_shares.shape[-1] - 1 - _MARGIN)
    before = distances.floor()
    after_share = distances - before
    index = before.long()[..., None]
    of_before, of_after = (log_shares.gather(-1, i)[..., 0] for i in (index, index + 1))
    return -((1 - after_share) * of_before + after_share * of_after).mean(dim=-1)
