"""Losses of class maps: cross-entropy and dice, both blind to pixels of unknown class.

Legend:
    logits  float (B, K, H, W)
    truth   uint8 or int64 (B, H, W), 0 … K-1 or `IGNORE_LABEL`
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.distributed import loss_normalizer
from tasks.targets import IGNORE_LABEL


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over the known pixels of the batch; 0 where there are none."""
    if logits.is_cuda:  # its kernel for maps, unlike that for rows, gives other sums each time
        logits, truth = logits.permute(0, 2, 3, 1).flatten(0, 2), truth.flatten()
    total = F.cross_entropy(logits.float(), truth.long(), ignore_index=IGNORE_LABEL, reduction="sum")
    return total / loss_normalizer((truth != IGNORE_LABEL).sum())


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 |p ∩ t| / (|p| + |t|), from probabilities p over all known pixels of the batch (of this rank), mean
    over the classes that are there; 0 where none is.

    Every class counts the same however few pixels it has (V-Net, Milletari et al. 2016, section 3, with sums
    instead of sums of squares in the denominator).
    """
    num_classes = logits.shape[1]
    known = truth != IGNORE_LABEL
    shares = logits.float().softmax(dim=1) * known[:, None]
    classes = torch.arange(num_classes, device=logits.device)[:, None, None]
    belongs = (truth[:, None] == classes) & known[:, None]
    shared, area = (shares * belongs).sum(dim=(0, 2, 3)), belongs.sum(dim=(0, 2, 3))
    overlap = 2 * shared / (shares.sum(dim=(0, 2, 3)) + area).clamp(min=1e-6)
    present = area > 0
    return ((1 - overlap) * present).sum() / present.sum().clamp(min=1)
