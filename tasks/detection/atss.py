"""Which object each anchor stands for by adaptive selection: how much an anchor must overlap an object follows from
the overlaps of the anchors near it.

Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection (Zhang et al.,
2020), section 4.

Legend:
    B  images     A  anchors, by level     G  rows of objects, padding included
    N  objects of all images     M  candidates of an object: 9 of each level, or all of a smaller one
    matches  int64 (B, A): the row of the object, or BACKGROUND
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .matching import BACKGROUND, rows_at_a_time
from .overlap_losses import iou_loss

_NEAREST = 9  # candidates of each level (section 4.2)


@torch.no_grad()
def match_adaptively(
    anchors: Tensor, level_sizes: Sequence[int], gt_boxes: Tensor, gt_valid: Tensor
) -> Tensor:
    """Matches (B, A) of `anchors` (A, 4), `level_sizes` of each level, with `gt_boxes` (B, G, 4), of which `gt_valid`
    (B, G) count.

    Candidates are the 9 anchors of each level whose centres are nearest to the object's. One stands for the object if
    its own centre lies inside and it overlaps the object at least as much as the mean of all candidates plus their
    standard deviation. An object of none such gets the nearest anchor. Of several objects an anchor stands for the one
    that it overlaps most.
    """
    num_images, num_objects = gt_valid.shape
    if not num_objects:
        return torch.full((num_images, len(anchors)), BACKGROUND, device=anchors.device)
    centres = _centres(anchors)
    distances, chosen = _nearest(centres, level_sizes, _centres(gt_boxes).flatten(0, 1))
    distances, chosen = (rows.unflatten(0, gt_valid.shape) for rows in (distances, chosen))  # (B, G, M)

    overlaps = 1 - iou_loss(anchors[chosen], gt_boxes[:, :, None])
    least = overlaps.mean(dim=2)
    if chosen.shape[2] > 1:
        least = least + overlaps.std(dim=2)
    x, y = centres[chosen].unbind(-1)
    x1, y1, x2, y2 = gt_boxes[:, :, None].unbind(-1)
    stands = (overlaps >= least[..., None]) & (x > x1) & (x < x2) & (y > y1) & (y < y2)
    nearest = torch.zeros_like(stands).scatter_(2, distances.argmin(dim=2, keepdim=True), True)
    stands = (stands | (nearest & ~stands.any(dim=2, keepdim=True))) & gt_valid[..., None]

    # The largest overlap of each anchor, then the first object that has it: either way no order shows.
    chosen, overlaps = chosen.flatten(1), overlaps.where(stands, -1).flatten(1)
    best = overlaps.new_full((num_images, len(anchors)), -1).scatter_reduce_(1, chosen, overlaps, "amax")
    wins = stands.flatten(1) & (overlaps == best.gather(1, chosen))
    row = torch.arange(num_objects, device=anchors.device).repeat_interleave(stands.shape[2])
    row = row.where(wins, num_objects)
    matches = torch.full_like(best, num_objects, dtype=torch.int64).scatter_reduce_(1, chosen, row, "amin")
    return matches.where(matches < num_objects, BACKGROUND)


def _nearest(centres: Tensor, level_sizes: Sequence[int], gt_centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (N, M) and indices (N, M) of the anchors with `centres` (A, 2) nearest to `gt_centres`
    (N, 2) on each level."""
    distances, chosen, start = [], [], 0
    for level in centres.split(list(level_sizes)):
        most = min(_NEAREST, len(level))
        found = [
            (some[:, None] - level).square_().sum(dim=2).topk(most, dim=1, largest=False)
            for some in gt_centres.split(rows_at_a_time(len(level), level.device))
        ]
        distances.append(torch.cat([block.values for block in found]))
        chosen.append(torch.cat([block.indices for block in found]) + start)
        start += len(level)
    return torch.cat(distances, dim=1), torch.cat(chosen, dim=1)


def _centres(boxes: Tensor) -> Tensor:
    """(..., 2) as x, y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2
