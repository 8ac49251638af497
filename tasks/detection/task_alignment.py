"""Which object each anchor stands for by what is predicted there: the anchors of the best score and place together.

TOOD: Task-aligned One-stage Object Detection (Feng et al., 2021), section 3.2.

Legend:
    B  images     A  anchors     G  rows of objects, padding included     K  classes
    matches  int64 (B, A): the row of the object, or BACKGROUND
"""

import torch
from torch import Tensor

from .matching import BACKGROUND, few_images_at_a_time, overlaps

_OVERLAP_POWER = 6  # β, of the overlap in the alignment; that of the score, α, is 1
_MOST_ANCHORS = 13  # of an object


@few_images_at_a_time
def assign_by_alignment(
    anchors: Tensor,
    boxes: Tensor,
    scores: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_valid: Tensor,
) -> tuple[Tensor, Tensor]:
    """Matches of `anchors` (A, 4) that predict `boxes` (B, A, 4) and `scores` (B, A, K) with objects `gt_boxes`
    (B, G, 4) of `gt_labels` (B, G), of which `gt_valid` (B, G) count; and (B, A) the score that each anchor shall
    reach, 0 without an object.

    An anchor is aligned with an object by t = s u⁶: its score s for the object's class and the overlap u of its box.
    An object takes the 13 anchors of the highest t above 0 whose centres lie in it; one wanted by several goes to
    the one that its box overlaps most. What an anchor shall reach is t, scaled so that the best of its object reaches
    the object's highest u.
    """
    centre, objects = (anchors[:, :2] + anchors[:, 2:]) / 2, gt_boxes[:, :, None]
    inside = ((centre > objects[..., :2]) & (centre < objects[..., 2:])).all(dim=-1) & gt_valid[..., None]
    label = gt_labels.clamp(min=0)[..., None].expand(-1, -1, len(anchors))
    overlap = overlaps(boxes, gt_boxes)
    alignment = (scores.mT.gather(1, label) * overlap**_OVERLAP_POWER).where(inside, 0)

    best, index = alignment.topk(min(_MOST_ANCHORS, len(anchors)), dim=2)
    taken = torch.zeros_like(inside).scatter_(2, index, best > 0)
    most, matches = overlap.where(taken, -1).max(dim=1)
    found = most >= 0
    rows = torch.arange(gt_boxes.shape[1], device=boxes.device)
    own = found[:, None] & (rows[:, None] == matches[:, None])
    alignment, overlap = alignment.where(own, 0), overlap.where(own, 0)
    highest = alignment.amax(dim=2, keepdim=True).clamp(min=torch.finfo(alignment.dtype).tiny)
    targets = (alignment / highest * overlap.amax(dim=2, keepdim=True)).sum(dim=1)
    return matches.where(found, BACKGROUND), targets
