"""Draws a fixed number of anchors or proposals per image to train on, with a share of positives.

Legend:
    B  images     A  candidates of each image     S  samples of each image, `budget` or A if that is less
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Samples(NamedTuple):
    """What was drawn: in each image first the positives, then the negatives, then padding."""

    indices: Tensor
    """int64 (B, S) into the candidates; any candidate where not `valid`."""
    positive: Tensor
    """bool (B, S); never set past the first `int(budget * positive_fraction)` slots."""
    valid: Tensor
    """bool (B, S): positive or negative, not padding."""


def sample_balanced(positive: Tensor, negative: Tensor, *, budget: int, positive_fraction: float) -> Samples:
    """Up to `budget` of each image's candidates, at random, at most `positive_fraction` of them positive.

    `positive` and `negative` are bool (B, A) and exclude each other; a candidate that is neither is never
    drawn. Negatives fill what positives leave (Faster R-CNN, section 3.1.3). The random numbers are those
    of torch's global generator of the device.
    """
    slots = min(budget, positive.shape[1])
    most = min(int(budget * positive_fraction), slots)
    keys = torch.rand(positive.shape, device=positive.device)
    _, first = torch.where(positive, keys, -1).topk(most, dim=1)
    _, rest = torch.where(negative, keys, -1).topk(slots, dim=1)
    num_positive = positive.sum(dim=1, keepdim=True).clamp(max=most)
    num_negative = negative.sum(dim=1, keepdim=True)

    slot = torch.arange(slots, device=positive.device)
    is_positive = slot < num_positive
    is_negative = ~is_positive & (slot - num_positive < num_negative)
    # The k-th negative lies at column `most + k` of both lists put side by side.
    column = torch.where(is_positive, slot, most + slot - num_positive)
    indices = torch.cat((first, rest), dim=1).gather(1, column.clamp(max=most + slots - 1))
    return Samples(indices, is_positive, is_positive | is_negative)
