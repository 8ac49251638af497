"""RoIAlign over all levels of a pyramid and all images at once, without a loop or a synchronisation.

Legend:
    B  images     R  boxes of each image, padding included     C  channels     S  cells along each output side
    P  boxes of all images together, B * R or fewer
    L  levels     T  cells of all maps of all images, the rows of one table (T, C)

Each output cell is a weighted sum of 16 rows of that table: 2 x 2 sampling points, each between four
neighbours. That is what an embedding bag computes, and it reads a channels_last pyramid as it lies.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

from tasks.device_copies import send

_POINTS = 2  # sampling points per output cell along each side, torchvision's `sampling_ratio=2`


class PyramidTable(NamedTuple):
    """All maps of a pyramid as the rows of one table, which any number of heads can pool from."""

    rows: Tensor
    """(T, C)."""
    shapes: tuple[tuple[int, int], ...]
    """(height, width) of each level, finest first."""
    strides: tuple[int, ...]
    """Of each level."""
    maps: tuple[Tensor, ...] = ()
    """(B, C, H, W) each, in place of `rows` while a graph is exported, whose operators take them as they are."""

    @classmethod
    def of(cls, maps: Sequence[Tensor], strides: Sequence[int]) -> "PyramidTable":
        """The table of `maps` (B, C, H, W) with `strides` that rise by factors of two."""
        shapes = tuple((level.shape[2], level.shape[3]) for level in maps)
        if torch.compiler.is_exporting():
            return cls(maps[0].new_zeros(0, maps[0].shape[1]), shapes, tuple(strides), tuple(maps))
        rows = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in maps])
        return cls(rows, shapes, tuple(strides))


def assign_levels(boxes: Tensor, finest: int, coarsest: int) -> Tensor:
    """Level n of stride 2 ** n that each box (..., 4) is pooled from, int64 in `finest` … `coarsest`.

    A box of 224 x 224 goes to level 4, one of half the side to level 3 (FPN, section 4.2, equation 1).
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).sqrt()
    # The epsilon is torchvision's: a box of exactly 224 pixels must not fall below its level by rounding.
    return (4 + torch.log2(sides / 224) + 1e-6).floor().clamp(finest, coarsest).long()


def multilevel_roi_align(
    table: PyramidTable, boxes: Tensor, output_size: int, images: Tensor | None = None
) -> Tensor:
    """Features of each box from the level that suits its size: (B * R, C, S, S), stored channels_last.

    Equal to `torchvision.ops.roi_align(sampling_ratio=2, aligned=False)` on the level of `assign_levels`.

    `boxes` (B, R, 4) are finite, in pixels of the images; or they are (P, 4) of `images` (P,), for (P, C, S, S).
    No gradient flows to them.
    """
    with torch.no_grad():
        if images is None:
            images = torch.arange(boxes.shape[0], dtype=torch.int32, device=boxes.device)
            images = images.repeat_interleave(boxes.shape[1])
            boxes = boxes.flatten(0, 1)
        if table.maps:
            return _by_torchvision(table, boxes, images, output_size)
        rows, weights = _bags(boxes.float(), images.int(), table, output_size)
    pooled = _WeightedSum.apply(table.rows, rows, weights.to(table.rows.dtype))
    return pooled.view(-1, output_size, output_size, table.rows.shape[1]).permute(0, 3, 1, 2)


def _by_torchvision(table: PyramidTable, boxes: Tensor, images: Tensor, output_size: int) -> Tensor:
    """The same by torchvision's operator, level by level."""
    import torchvision.ops  # noqa: F401 (knows the shapes that its operators give)

    finest = table.strides[0].bit_length() - 1
    levels = assign_levels(boxes, finest, finest + len(table.strides) - 1) - finest
    rois = torch.cat((images.to(boxes.dtype)[:, None], boxes), dim=1)
    pooled = boxes.new_zeros(boxes.shape[0], table.maps[0].shape[1], output_size, output_size)
    for n, (level, stride) in enumerate(zip(table.maps, table.strides, strict=True)):
        rows = (levels == n).nonzero()[:, 0]
        # scale, height, width, points, and no half a pixel of shift
        settings = 1 / stride, output_size, output_size, _POINTS, False
        own = torch.ops.torchvision.roi_align(level, rois[rows], *settings)
        pooled = pooled.index_copy(0, rows, own)
    return pooled


class _WeightedSum(Function):
    """Sums (M, C) of the rows (M, 16) of a table (T, C), weighted by (M, 16).

    Backward is the same kind of sum, of rows of the gradient for each row of the table. PyTorch's own
    adds up one entry at a time in the table's precision: three times as slow and, in bfloat16, off by
    several per cent where many boxes overlap.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.num_rows = len(table)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides `ctx`)
        (grad,) = grads
        rows, weights = ctx.saved_tensors
        sorted_rows, order = rows.flatten().sort()
        starts = torch.searchsorted(
            sorted_rows, torch.arange(ctx.num_rows, dtype=torch.int32, device=rows.device)
        )
        bags = order >> (rows.shape[1].bit_length() - 1)  # a division by 16 that takes no time
        weights = weights.flatten()[order]
        return F.embedding_bag(bags, grad, starts, mode="sum", per_sample_weights=weights), None, None


def _bags(boxes: Tensor, images: Tensor, table: PyramidTable, output_size: int) -> tuple[Tensor, Tensor]:
    """Rows of the table (P * S * S, 16) int32 and their weights, float32, for boxes (P, 4) of `images` (P,)."""
    finest = table.strides[0].bit_length() - 1
    level = assign_levels(boxes, finest, finest + len(table.strides) - 1) - finest
    # (P,) each: of the level of each box, and the first of its rows in the table.
    stride, width, height, first = _level_table(table, boxes.device)[level].unbind(1)
    size = torch.stack((width, height), dim=1).float()

    corners = boxes / stride.float()[:, None]
    extent = (corners[:, 2:] - corners[:, :2]).clamp(min=1)  # at least one cell: RoIAlign with aligned=False
    steps = _steps(output_size, boxes.device)
    points = corners[:, :2, None] + extent[:, :, None] * steps  # (P, 2, S * 2), along x and along y
    last = size[:, :, None] - 1
    inside = (points >= -1) & (points <= size[:, :, None])
    points = points.clamp(min=0).minimum(last)
    low = points.floor()
    fraction = points - low
    neighbours = torch.stack((low, (low + 1).minimum(last)), dim=-1).int().unflatten(2, (output_size, -1))
    shares = torch.stack((1 - fraction, fraction), dim=-1) * (inside / _POINTS)[..., None]
    x, y = neighbours.flatten(3).unbind(1)  # (P, S, 4): both neighbours of both points
    x_share, y_share = shares.unflatten(2, (output_size, -1)).flatten(3).unbind(1)

    first = first + images * (width * height)
    y = first.view(-1, 1, 1) + y * width.view(-1, 1, 1)
    side, bag = 2 * _POINTS, (2 * _POINTS) ** 2
    along_y, along_x = (-1, output_size, 1, side, 1), (-1, 1, output_size, 1, side)
    rows = y.view(along_y) + x.view(along_x)
    weights = y_share.view(along_y) * x_share.view(along_x)
    return rows.view(-1, bag), weights.view(-1, bag)


def _level_table(table: PyramidTable, device: torch.device) -> Tensor:
    """int32 (L, 4): stride, width, height and first row in the table of each level."""
    num_images = len(table.rows) // sum(height * width for height, width in table.shapes)
    levels, first = [], 0
    for (height, width), stride in zip(table.shapes, table.strides, strict=True):
        levels.append((stride, width, height, first))
        first += num_images * height * width
    return send(levels, device, torch.int32)


# Outside inference mode because a tensor made inside it cannot take part in training later.
@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _steps(output_size: int, device: torch.device) -> Tensor:
    """Positions (S * 2,) of the sampling points along a side, as fractions of it."""
    count = output_size * _POINTS
    return (torch.arange(count, dtype=torch.float32, device=device) + 0.5) / count
