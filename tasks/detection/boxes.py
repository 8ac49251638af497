"""Arithmetic on boxes: offsets and distances to and from anchors, clipping.

Boxes and anchors are (..., 4) xyxy in pixels; deltas are (..., 4) as dx, dy, dw, dh: the shift of the
centre in units of the anchor's size and the logarithm of the ratio of sizes, each times its weight
(R-CNN, appendix C; Faster R-CNN, section 3.1.2). Distances are (..., 4) as left, top, right, bottom: from
an anchor's centre to the sides of a box, in units of the anchor's size (FCOS, section 3.1, with the scaling
of its extended version). All of it is float32, whatever autocast says.
"""

import math

import torch
from torch import Tensor

Weights = tuple[float, float, float, float]
PLAIN: Weights = (1.0, 1.0, 1.0, 1.0)

_MAX_LOG_RATIO = math.log(1000 / 16)  # exp of a wild prediction must not overflow; the field's constant


def encode(boxes: Tensor, anchors: Tensor, weights: Weights = PLAIN) -> Tensor:
    """Deltas that take `anchors` to `boxes`. Both need a positive width and height."""
    wx, wy, ww, wh = weights
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    ax1, ay1, ax2, ay2 = anchors.float().unbind(-1)
    width, height = x2 - x1, y2 - y1
    anchor_width, anchor_height = ax2 - ax1, ay2 - ay1
    dx = wx * ((x1 + 0.5 * width) - (ax1 + 0.5 * anchor_width)) / anchor_width
    dy = wy * ((y1 + 0.5 * height) - (ay1 + 0.5 * anchor_height)) / anchor_height
    dw = ww * torch.log(width / anchor_width)
    dh = wh * torch.log(height / anchor_height)
    return torch.stack((dx, dy, dw, dh), dim=-1)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights = PLAIN) -> Tensor:
    """Boxes that `deltas` make of `anchors`, growing them at most 62.5 times. The inverse of `encode`."""
    wx, wy, ww, wh = weights
    dx, dy, dw, dh = deltas.float().unbind(-1)
    ax1, ay1, ax2, ay2 = anchors.float().unbind(-1)
    anchor_width, anchor_height = ax2 - ax1, ay2 - ay1
    x = dx / wx * anchor_width + (ax1 + 0.5 * anchor_width)
    y = dy / wy * anchor_height + (ay1 + 0.5 * anchor_height)
    half_width = 0.5 * torch.exp((dw / ww).clamp(max=_MAX_LOG_RATIO)) * anchor_width
    half_height = 0.5 * torch.exp((dh / wh).clamp(max=_MAX_LOG_RATIO)) * anchor_height
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def encode_distances(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Distances from the centres of `anchors` to the sides of `boxes`; negative where a centre lies outside."""
    centre, size = _centre_and_size(anchors)
    boxes = boxes.float()
    return torch.cat(((centre - boxes[..., :2]) / size, (boxes[..., 2:] - centre) / size), dim=-1)


def decode_distances(distances: Tensor, anchors: Tensor) -> Tensor:
    """Boxes whose sides lie at `distances` from the centres of `anchors`. The inverse of `encode_distances`."""
    centre, size = _centre_and_size(anchors)
    before, after = distances.float().unflatten(-1, (2, 2)).unbind(-2)
    return torch.cat((centre - before * size, centre + after * size), dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2) as x, y, and as width, height."""
    start, end = boxes.float().unflatten(-1, (2, 2)).unbind(-2)
    return (start + end) / 2, end - start


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, ..., 4) cut to their images of `sizes` (B, 2) as (height, width)."""
    limits = sizes.flip(-1).repeat(1, 2).to(boxes)
    return boxes.clamp(min=0).minimum(limits.view(-1, *[1] * (boxes.dim() - 2), 4))


def at_least(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes are at least `min_size` pixels wide and high; NaN is not."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_size).all(dim=-1)
