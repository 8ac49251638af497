"""Which object each point of the maps stands for, without anchor boxes: by place and size, or by cost.

A point is given as a square anchor: its centre is the point, its side the stride of its level.

Legend:
    B  images     A  points of an image, by level     G  rows of objects, padding included     K  classes
    matches  int64 (B, A): the row of the object, or BACKGROUND
"""

import torch
from torch import Tensor

from .boxes import encode_distances
from .matching import BACKGROUND, rows_at_a_time


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
    rows = rows_at_a_time(smallest)
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
