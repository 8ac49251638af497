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
    if not len(pixels):
        return torch.zeros(len(boxes), size, size, device=boxes.device)
    start, left, top, width, height = places.unbind(1)
    points = (torch.arange(size * _POINTS, device=boxes.device) + 0.5) / (size * _POINTS)
    boxes = boxes.float()
    # A side shorter than a pixel counts as one, as in RoIAlign.
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    columns = boxes[:, 0, None] + points * extent[:, 0, None]
    rows = boxes[:, 1, None] + points * extent[:, 1, None]
    x, x_share = _neighbours(columns.clamp(max=sizes[:, 1, None] - 1), left, width)
    y, y_share = _neighbours(rows.clamp(max=sizes[:, 0, None] - 1), top, height)
    row_starts = start[:, None] + y * width[:, None]
    index = (row_starts[:, :, None] + x[:, None, :]).clamp_(0, len(pixels) - 1)
    # (P, S, 4, S, 4): what each cell's points read; where that is outside the bitmap, its share is 0.
    values = pixels.index_select(0, index.flatten()).view(-1, size, 2 * _POINTS, size, 2 * _POINTS)
    of_rows = (values * x_share.view(-1, 1, 1, size, 2 * _POINTS)).sum(dim=4)
    return (of_rows * y_share.view(-1, size, 2 * _POINTS, 1)).sum(dim=2)


def _neighbours(points: Tensor, origin: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels next to each of `points` (P, 2 S), counted from `origin` (P,), and their shares in the cell,
    both (P, 4 S); 0 for those outside `length` (P,). Pixel i stands for point i, as in torchvision's detectors,
    not i + 0.5."""
    before = points.floor()
    share = points - before
    pixels = torch.stack((before, before + 1), dim=2).flatten(1).long() - origin[:, None]
    inside = (pixels >= 0) & (pixels < length[:, None])
    return pixels, torch.stack((1 - share, share), dim=2).flatten(1) * inside / _POINTS
