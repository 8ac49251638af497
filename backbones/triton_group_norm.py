"""Group norm of channels_last maps for CUDA, in their own precision with float32 statistics.

torch's operator reads NCHW, and autocast makes its input float32: two copies and twice the bytes, both ways. Here a
map is read twice and written once, forward and backward.

Legend:
    N  images     P  cells of a map     C  channels     G  groups     D  channels of a group     S  parts of the cells
"""

# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_CELLS = 4096  # numbers of a tile; its cells are this over the channels
_TILES = 16  # tiles a program goes through for statistics


@triton.jit
def _moments(x, means, squares, cells, part, C: tl.constexpr, TILE: tl.constexpr):
    """Mean and sum of squared differences of each channel over one part of the cells of one image."""
    n, s = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, C)
    mean = tl.zeros((C,), tl.float32)
    square = tl.zeros((C,), tl.float32)
    begin = s * part
    end = tl.minimum(begin + part, cells)
    seen = 0.0
    for start in range(begin, end, TILE):
        cell = start + tl.arange(0, TILE)
        inside = (cell < end)[:, None]
        place = (n.to(tl.int64) * cells + cell)[:, None] * C + channel[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        count = tl.minimum(end - start, TILE).to(tl.float32)
        tile_mean = tl.sum(value, axis=0) / count
        away = tl.where(inside, value - tile_mean[None, :], 0.0)
        # Chan, Golub and LeVeque: moments of two sets give those of both together.
        delta = tile_mean - mean
        total = seen + count
        mean += delta * (count / total)
        square += tl.sum(away * away, axis=0) + delta * delta * (seen * count / total)
        seen = total
    row = (n * tl.num_programs(1) + s) * C + channel
    tl.store(means + row, mean)
    tl.store(squares + row, square)


@triton.jit
def _finish_moments(
    means, squares, mean_out, rstd_out, cells, part, parts, eps, C: tl.constexpr, G: tl.constexpr
):
    """Mean and 1 / standard deviation of each group of one image."""
    n = tl.program_id(0)
    channel = tl.arange(0, C)
    mean = tl.zeros((C,), tl.float32)
    square = tl.zeros((C,), tl.float32)
    seen = 0.0
    for s in range(parts):
        count = tl.minimum(part, cells - s * part).to(tl.float32)
        row = (n * parts + s) * C + channel
        delta = tl.load(means + row) - mean
        total = seen + count
        mean += delta * (count / total)
        square += tl.load(squares + row) + delta * delta * (seen * count / total)
        seen = total
    D: tl.constexpr = C // G
    by_group = tl.reshape(mean, (G, D))
    group_mean = tl.sum(by_group, axis=1) / D
    away = by_group - group_mean[:, None]
    spread = tl.sum(tl.reshape(square, (G, D)), axis=1) + seen * tl.sum(away * away, axis=1)
    group = n * G + tl.arange(0, G)
    tl.store(mean_out + group, group_mean)
    tl.store(rstd_out + group, 1.0 / tl.sqrt(spread / (seen * D) + eps))


@triton.jit
def _apply(x, y, mean, rstd, weight, bias, cells, C: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr):
    n = tl.program_id(0)
    channel = tl.arange(0, C)
    group = n * G + channel // (C // G)
    scale = tl.load(rstd + group) * tl.load(weight + channel).to(tl.float32)
    shift = tl.load(bias + channel).to(tl.float32) - tl.load(mean + group) * scale
    cell = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (cell < cells)[:, None]
    place = (n.to(tl.int64) * cells + cell)[:, None] * C + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + place, (value * scale[None, :] + shift[None, :]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _slopes(
    x, dy, mean, rstd, plain, scaled, cells, part, C: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr
):
    """Sums of the gradient, and of the gradient times the normalised value, over one part of the cells."""
    n, s = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, C)
    group = n * G + channel // (C // G)
    m = tl.load(mean + group)[None, :]
    r = tl.load(rstd + group)[None, :]
    sum_plain = tl.zeros((C,), tl.float32)
    sum_scaled = tl.zeros((C,), tl.float32)
    begin = s * part
    end = tl.minimum(begin + part, cells)
    for start in range(begin, end, TILE):
        cell = start + tl.arange(0, TILE)
        inside = (cell < end)[:, None]
        place = (n.to(tl.int64) * cells + cell)[:, None] * C + channel[None, :]
        gradient = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        sum_plain += tl.sum(gradient, axis=0)
        sum_scaled += tl.sum(gradient * (value - m) * r, axis=0)
    row = (n * tl.num_programs(1) + s) * C + channel
    tl.store(plain + row, sum_plain)
    tl.store(scaled + row, sum_scaled)


@triton.jit
def _input_gradient(
    x, dy, dx, mean, rstd, weight, plain, scaled, cells, C: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr
):
    n = tl.program_id(0)
    channel = tl.arange(0, C)
    D: tl.constexpr = C // G
    group = n * G + channel // D
    w = tl.load(weight + channel).to(tl.float32)
    a = tl.reshape(w * tl.load(plain + n * C + channel), (G, D))
    b = tl.reshape(w * tl.load(scaled + n * C + channel), (G, D))
    count = cells * D * 1.0  # `cells` of 1 comes as a constant, which has no dtype
    mean_a = tl.reshape(tl.broadcast_to((tl.sum(a, axis=1) / count)[:, None], (G, D)), (C,))
    mean_b = tl.reshape(tl.broadcast_to((tl.sum(b, axis=1) / count)[:, None], (G, D)), (C,))
    m, r = tl.load(mean + group), tl.load(rstd + group)
    cell = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (cell < cells)[:, None]
    place = (n.to(tl.int64) * cells + cell)[:, None] * C + channel[None, :]
    gradient = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
    value = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - m[None, :]) * r[None, :]
    result = (gradient * w[None, :] - mean_a[None, :] - value * mean_b[None, :]) * r[None, :]
    tl.store(dx + place, result.to(dx.dtype.element_ty), mask=inside)


class GroupNormChannelsLast(torch.autograd.Function):
    """`F.group_norm` of a channels_last map (N, C, H, W), C and C / G powers of two: what `takes` says."""

    @staticmethod
    def takes(x: Tensor, num_groups: int) -> bool:
        channels = x.shape[1]
        powers = channels & (channels - 1) == 0 and num_groups & (num_groups - 1) == 0
        whole = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return powers and whole and 16 <= channels <= 2048 and x.numel() > 0

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        num_images, channels, cells = len(x), x.shape[1], x.shape[2] * x.shape[3]
        tile, part, parts = _tiling(channels, cells)
        means, squares = x.new_empty(2, num_images, parts, channels, dtype=torch.float32)
        mean, rstd = x.new_empty(2, num_images, groups, dtype=torch.float32)
        y = torch.empty_like(x)
        _moments[(num_images, parts)](x, means, squares, cells, part, C=channels, TILE=tile)
        _finish_moments[(num_images,)](
            means, squares, mean, rstd, cells, part, parts, eps, C=channels, G=groups
        )
        grid = num_images, triton.cdiv(cells, tile)
        _apply[grid](x, y, mean, rstd, weight, bias, cells, C=channels, G=groups, TILE=tile)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, rstd = ctx.saved_tensors
        num_images, channels, cells = len(x), x.shape[1], x.shape[2] * x.shape[3]
        tile, part, parts = _tiling(channels, cells)
        dy = gradients[0].contiguous(memory_format=torch.channels_last)
        sums = x.new_empty(2, num_images, parts, channels, dtype=torch.float32)
        sizes = {"C": channels, "G": ctx.groups, "TILE": tile}
        _slopes[(num_images, parts)](x, dy, mean, rstd, sums[0], sums[1], cells, part, **sizes)
        plain, scaled = of_image = sums.sum(dim=2)
        dx = torch.empty_like(x)
        grid = num_images, triton.cdiv(cells, tile)
        _input_gradient[grid](x, dy, dx, mean, rstd, weight, plain, scaled, cells, **sizes)
        db, dw = of_image.sum(dim=1).to(weight.dtype)
        return dx, dw, db, None, None


def _tiling(channels: int, cells: int) -> tuple[int, int, int]:
    """Cells of a tile; cells of a part; number of parts."""
    tile = max(1, _CELLS // channels)
    part = tile * _TILES
    return tile, part, triton.cdiv(cells, part)


@triton.jit
def _fill(x):
    tl.store(x, 1.0)


def smallest_kernel(device: torch.device) -> None:
    """Compiles and runs a kernel on `device`; whatever error Triton raises where that cannot be."""
    x = torch.zeros(1, device=device)
    _fill[(1,)](x)
