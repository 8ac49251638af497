"""How unsure a network is of each image of a batch, from what it finds there, whatever its task.

Legend: B images, D detections, K classes, (h, w) cells of a map.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.contracts import Batch, Classification, Detections, PixelScores
from tasks.device_copies import fetch


def uncertainties(
    found: Any, batch: Batch, calibration: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """(B,) float64, at least 0, the higher the less sure; comparable between images of one model.

    Classes of images and pixels: 1 minus the margin between the two best (Scheffer et al., 2001), mean over pixels.
    Objects: the sum of `doubts` over detections, so that a picture with more to ask about comes first.

    Args:
        found: what the network finds in `batch`.
        batch: its images.
        calibration: scores of detections (B, D) to probabilities; None takes scores as they are.
    """
    if isinstance(found, Detections):
        scores = fetch(found.scores.float())[0].numpy()
        return doubts(scores, calibration).sum(axis=1)
    if isinstance(found, Classification):
        return fetch(1 - margins(found.logits))[0].double().numpy()
    assert isinstance(found, PixelScores), f"no uncertainty is known of {type(found).__name__}"
    unsure = 1 - margins(found.logits)  # (B, h, w)
    inside = cells_inside(batch.sizes, unsure.shape[-2:], found.image_size).to(unsure)
    return fetch((unsure * inside).sum((1, 2)) / inside.sum((1, 2)))[0].double().numpy()


def doubts(scores: np.ndarray, calibration: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """float64, as `scores`: the variance p (1 - p) of whether a detection is right, times 4, which is 1 where p is a
    half and 0 where it is sure; 0 of padding."""
    p = np.asarray(scores, np.float64)
    p = np.where(p > 0, p if calibration is None else calibration(p), 0.0)
    return 4 * p * (1 - p)


def margins(logits: Tensor) -> Tensor:
    """Probability of the best of the classes in dimension 1, less that of the second; 1 of a single class."""
    shares = logits.float().softmax(dim=1)
    if shares.shape[1] < 2:
        return torch.ones_like(shares[:, 0])
    best = shares.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def cells_inside(sizes: Tensor, shape: Sequence[int], image_size: Sequence[int]) -> Tensor:
    """Bool (B, h, w): which cells of maps of this shape (h, w), which cover images padded to `image_size` (H, W), begin
    in the valid `sizes` (B, 2) pixels."""
    rows, columns = (
        torch.arange(cells, device=sizes.device) * pixels / cells < sizes[:, axis, None]
        for axis, (cells, pixels) in enumerate(zip(shape, image_size, strict=True))
    )
    return rows[:, :, None] & columns[:, None]
