"""From logits of a network's resolution to the class of every pixel of the original image, in little memory.

Legend:
    logits  float (K, h, w) of one image; its cells cover the H x W pixels of the batch's images evenly
    size    (height, width) of the valid area of those pixels, which the original image was resized to
"""

import torch
from torch import Tensor

from tasks.contracts import PixelScores
from tasks.device_copies import fetch

_MOST_VALUES = 2**23  # float32 of one band of rows: 32 MB, where 150 classes of 12 megapixels are 7 GB


def original_class_maps(scores: PixelScores, sizes: Tensor, original_sizes: Tensor) -> list[Tensor]:
    """The most probable class of each original pixel: for each image uint8 (height, width) of its original size.

    `sizes` and `original_sizes` are the batch's, (B, 2) as (height, width).
    """
    sizes, original_sizes = fetch(sizes, original_sizes)
    return [
        class_map(logits, scores.image_size, size, original_size)
        for logits, size, original_size in zip(
            scores.logits, sizes.tolist(), original_sizes.tolist(), strict=True
        )
    ]


def class_map(
    logits: Tensor, image_size: tuple[int, int], size: tuple[int, int], original_size: tuple[int, int]
) -> Tensor:
    """uint8 `original_size`: argmax of the logits, interpolated once and bilinearly between their cells.

    The same as `F.interpolate(logits, image_size, mode="bilinear")` where the original has the size of the
    batch's images. Cells that see nothing but padding have no say.
    """
    num_classes, *cells = logits.shape
    (top, bottom, down), (left, right, across) = (
        neighbours(original, valid, padded, num_cells, logits.device)
        for original, valid, padded, num_cells in zip(original_size, size, image_size, cells, strict=True)
    )
    logits = logits.float()
    result = torch.empty(tuple(original_size), dtype=torch.uint8, device=logits.device)
    band = max(1, _MOST_VALUES // (num_classes * original_size[1]))
    for start in range(0, original_size[0], band):
        rows = slice(start, start + band)
        lines = torch.lerp(logits[:, top[rows]], logits[:, bottom[rows]], down[rows, None])
        values = torch.lerp(lines[:, :, left], lines[:, :, right], across)
        result[rows] = values.argmax(dim=0)
    return result


def neighbours(
    num_pixels: int, valid: int, padded: int, num_cells: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Along one side, for each original pixel: the cells before and after its centre, (P,) int64, and how far
    it lies from the first towards the second, (P,) float32 in 0 … 1.

    `num_pixels` original pixels became `valid` of `padded` pixels, which `num_cells` cells cover.
    """
    centres = (torch.arange(num_pixels, device=device, dtype=torch.float32) + 0.5) * (valid / num_pixels)
    last = -(-valid * num_cells // padded) - 1
    positions = (centres * (num_cells / padded) - 0.5).clamp(0, last)
    first = positions.long()
    return first, (first + 1).clamp(max=last), positions - first
