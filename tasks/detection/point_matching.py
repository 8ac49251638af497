"""Which object each point of the maps stands for, without anchor boxes: by place and size, or by cost.

A point is given as a square anchor: its centre is the point, its side the stride of its level.

Legend:
    B  images     A  points of an image, by level     G  rows of objects, padding included     K  classes
    matches  int64 (B, A): the row of the object, or BACKGROUND
"""

import torch
from torch import Tensor

from .boxes import encode_distances
from .matching import BACKGROUND, few_images_at_a_time, overlaps, rows_at_a_time

_MOST_POINTS = 10  # of an object: as many of the best overlaps are added up (OTA, section 3.3)
_BOX_COST = 3.0  # λ, of a box's overlap beside its class
_OUTSIDE_COST = 1e5  # of a point outside its object: taken only where no other is left


def match_points(
    points: Tensor, level_sizes: tuple[int, ...], gt_boxes: Tensor, gt_valid: Tensor, *, radius: float
) -> Tensor:
    """Matches of `points` (A, 4) with `gt_boxes` (B, G, 4), of which `gt_valid` (B, G) count, as FCOS does.

    A point stands for the smallest object that it lies in, provided that its centre is nearer than `radius`
    strides along both axes and that the farthest side is 4 to 8 strides away: less on the first level, more
    on the last (FCOS, section 3.2, with the centre sampling of its extended version). Levels have
    `level_sizes` points.
    """
    centre, stride = (points[:, :2] + points[:, 2:]) / 2, points[:, 2] - points[:, 0]
    nearest, farthest = 4 * stride, 8 * stride
    nearest[: level_sizes[0]] = 0
    farthest[-level_sizes[-1] :] = torch.inf
    shape = (len(gt_boxes), len(points))
    smallest = points.new_full(shape, torch.inf)
    matches = torch.full(shape, BACKGROUND, device=points.device)
    rows = rows_at_a_time(smallest.numel(), points.device)
    for start in range(0, gt_boxes.shape[1], rows):
        boxes = gt_boxes[:, start : start + rows, None]  # (B, rows, 1, 4)
        offset = (centre - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(dim=-1)
        distances = torch.cat((centre - boxes[..., :2], boxes[..., 2:] - centre), dim=-1)
        reach = distances.amax(dim=-1)
        stands = (offset < radius * stride) & (distances.amin(dim=-1) > 0)
        stands &= (reach > nearest) & (reach < farthest) & gt_valid[:, start : start + rows, None]
        area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
        value, index = area.where(stands, torch.inf).min(dim=1)
        better = value < smallest
        matches = torch.where(better, index + start, matches)
        smallest = torch.where(better, value, smallest)
    return matches


def centerness(boxes: Tensor, points: Tensor) -> Tensor:
    """How central `points` (N, 4) lie in `boxes` (N, 4), 0 at a side to 1 in the middle (FCOS, equation 3)."""
    distances = encode_distances(boxes, points).unflatten(-1, (2, 2))
    near, far = distances.amin(dim=-2), distances.amax(dim=-2)
    return (near.clamp(min=0) / far).prod(dim=-1).sqrt()


@few_images_at_a_time
def assign_by_cost(
    points: Tensor,
    boxes: Tensor,
    scores: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_valid: Tensor,
    *,
    radius: float,
) -> tuple[Tensor, Tensor]:
    """Matches of `points` (A, 4) that predict `boxes` (B, A, 4) and `scores` (B, A, K) with objects `gt_boxes`
    (B, G, 4) of `gt_labels` (B, G), of which `gt_valid` (B, G) count; and (B, A) the overlap of each box with
    its object, 0 without one.

    SimOTA (YOLOX, section 2.1): an object takes those points near its centre, nearer than `radius` strides
    along both axes, whose predictions cost least: cross-entropy of the scores less λ times the logarithm of
    the overlap. It takes as many as its ten largest overlaps amount to, and at least one; a point wanted by
    several goes to the one that it costs least.
    """
    overlap = overlaps(boxes, gt_boxes)
    centre, stride = (points[:, :2] + points[:, 2:]) / 2, points[:, 2] - points[:, 0]
    objects = gt_boxes[:, :, None]
    offset = (centre - (objects[..., :2] + objects[..., 2:]) / 2).abs().amax(dim=-1)
    candidate = (offset < radius * stride) & gt_valid[..., None]
    inside = ((centre > objects[..., :2]) & (centre < objects[..., 2:])).all(dim=-1)

    # The cross-entropy of all classes with none, and what the object's own class changes of it.
    present, absent = scores.log().clamp(min=-100), (1 - scores).log().clamp(min=-100)
    label = gt_labels.clamp(min=0)[..., None].expand(-1, -1, len(points))
    change = (absent - present).mT.gather(1, label)
    cost = change - absent.sum(dim=-1)[:, None]
    cost = cost - _BOX_COST * (overlap + 1e-8).log() + _OUTSIDE_COST * ~inside
    cost = cost.where(candidate, torch.inf)

    most = min(_MOST_POINTS, len(points))
    wanted = overlap.where(candidate, 0).topk(most, dim=2).values.sum(dim=2, keepdim=True).int().clamp(min=1)
    least, index = cost.topk(most, dim=2, largest=False)
    taken = (torch.arange(most, device=cost.device) < wanted) & least.isfinite()
    taken = torch.zeros_like(candidate).scatter_(2, index, taken)
    least, matches = cost.where(taken, torch.inf).min(dim=1)
    found = least.isfinite()
    overlap = overlap.gather(1, matches[:, None]).squeeze(1)
    return matches.where(found, BACKGROUND), overlap.where(found, 0)
