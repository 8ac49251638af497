"""What the mask branch should say inside each box, sampled from box-local bitmaps.

Legend, beside that of tasks/contracts.py:
    P  boxes to sample for        S  cells along each side of a box
"""

import torch
from torch import Tensor

_POINTS = 2  # sampling points along each side of a cell


def sample_masks(pixels: Tensor, places: Tensor, boxes: Tensor, sizes: Tensor, size: int) -> Tensor:
    """Share of each cell that its object covers: float32 (P, S, S) in 0 … 1.

    Each cell is the mean of 2 x 2 bilinear samples of the mask. torchvision samples more points where a box
    is larger than 2 S pixels, so values may differ there by a few hundredths, and the loss in its fourth
    digit. Reads bytes where they lie instead of a full-size float image per object.

    Args:
        pixels: uint8 (total,), the bitmaps of `Batch.mask_pixels`.
        places: int64 (P, 5), the row of `Batch.mask_places` of each box's object.
        boxes: (P, 4) xyxy in pixels of the image.
        sizes: (P, 2) height and width of the image of each box.
        size: S.
    """
    start, left, top, width, height = places.unbind(1)
    points = (torch.arange(size * _POINTS, device=boxes.device) + 0.5) / (size * _POINTS)
    boxes = boxes.float()
    # A side shorter than a pixel counts as one, as in RoIAlign.
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    columns = boxes[:, 0, None] + points * extent[:, 0, None]
    rows = boxes[:, 1, None] + points * extent[:, 1, None]
    x, x_share = _neighbours(columns.clamp(max=sizes[:, 1, None] - 1), left)  # (P, 2 S)
    y, y_share = _neighbours(rows.clamp(max=sizes[:, 0, None] - 1), top)
    total = boxes.new_zeros(len(boxes), size * _POINTS, size * _POINTS)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = (y + dy)[:, :, None], (x + dx)[:, None, :]
            inside = (
                (row >= 0) & (row < height[:, None, None]) & (column >= 0) & (column < width[:, None, None])
            )
            index = (start[:, None, None] + row * width[:, None, None] + column).where(inside, 0)
            value = pixels[index].where(inside, 0) if len(pixels) else torch.zeros_like(total)
            total += value * _weight(y_share, dy)[:, :, None] * _weight(x_share, dx)[:, None, :]
    return total.unflatten(2, (size, _POINTS)).unflatten(1, (size, _POINTS)).mean(dim=(2, 4))


def _neighbours(points: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel before each point, counted from `origin` (P,), and the distance from it; pixel i stands for
    point i, as in torchvision's detectors, not i + 0.5."""
    before = points.floor()
    return before.long() - origin[:, None], points - before


def _weight(share: Tensor, step: int) -> Tensor:
    return share if step else 1 - share
