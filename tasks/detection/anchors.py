"""Anchors: the boxes that a detector starts from, a few at every cell of every level.

Legend:
    L  levels     A  anchors a cell, one for each aspect ratio and size     ratio  height / width
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Shape = tuple[int, int]
Sizes = float | tuple[float, ...]
"""Side in pixels of the square anchor of one level, or those of several."""


def cell_anchors(size: Sizes, ratios: Sequence[float]) -> Tensor:
    """(A, 4) boxes of about `size` ** 2 pixels around (0, 0), one for each ratio, at whole pixels.

    With several sizes, all of them for each ratio in turn. Rounded half to even, as torchvision does: its
    weights were trained on these very boxes.
    """
    heights = torch.sqrt(torch.tensor(tuple(ratios), dtype=torch.float32))
    widths = 1 / heights
    sizes = torch.tensor(size if isinstance(size, tuple) else (size,), dtype=torch.float32)
    halves = torch.stack([(sides[:, None] * sizes[None]).flatten() for sides in (widths, heights)], dim=1) / 2
    return torch.cat((-halves, halves), dim=1).round()


# Cached because a constant sent to a GPU is waited for; these depend on the detector alone, not on the sizes of
# images. Outside inference mode because a tensor made inside it cannot take part in training later.
@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _cells(sizes: tuple[Sizes, ...], ratios: tuple[float, ...], device: torch.device) -> list[Tensor]:
    """`cell_anchors` of each level."""
    return [cell_anchors(size, ratios).to(device) for size in sizes]


def make_anchors(
    image_size: Shape,
    map_sizes: tuple[Shape, ...],
    sizes: tuple[Sizes, ...],
    ratios: tuple[float, ...],
    device: torch.device,
    offset: float = 0.0,
) -> Tensor:
    """All anchors (sum of H * W * A over levels, 4), float32: by level, then row, column, ratio and size.

    `image_size` is the (height, width) of the padded images, `map_sizes` that of each map, `sizes` those of
    each level. `offset` places an anchor in its cell: 0 at its upper left corner, 0.5 in its middle.
    """
    levels = []
    # What is made while exporting or compiling belongs to that graph, and is not kept.
    find_cells = _cells.__wrapped__ if torch.compiler.is_compiling() else _cells
    for (height, width), cells in zip(map_sizes, find_cells(sizes, ratios, device), strict=True):
        # Not the level's nominal stride: where a map was rounded up (13 rows for 800 pixels), torchvision
        # spaces its anchors by 800 // 13 = 61, and its weights expect them there.
        step_y, step_x = image_size[0] // height, image_size[1] // width
        y = (torch.arange(height, dtype=torch.float32, device=device) + offset) * step_y
        x = (torch.arange(width, dtype=torch.float32, device=device) + offset) * step_x
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack((x, y, x, y), dim=-1)
        levels.append((shifts[:, :, None] + cells).view(-1, 4))
    return torch.cat(levels)
