"""Deformable convolutions: each cell says where its kernel reads, and how much of what it reads there counts.

Deformable ConvNets v2: More Deformable, Better Results (Zhu et al., 2019), section 3.2.

Legend:
    B  images     C  channels     T  cells of the kernel, row by row     H, W  rows and columns of the result
"""

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


class DeformableConv2d(nn.Conv2d):
    """`nn.Conv2d` without a bias whose kernel reads at places that `offsets`, a convolution beside it, finds for each
    cell.

    `offsets` starts at zero, where all is as in the plain convolution, whose weights load under the same names: what
    counts of each place is twice the paper's sigmoid, which would start at a half. Read in float32.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]
        assert self.padding_mode == "zeros" and not isinstance(self.padding, str) and self.bias is None
        rows, columns = self.size = cast(Pair, self.kernel_size)
        # For each cell of the kernel its shift along y and x, then for each what counts of it.
        self.offsets = nn.Conv2d(
            self.in_channels,
            3 * rows * columns,
            self.size,
            cast(Pair, self.stride),
            cast(Pair, self.padding),
            cast(Pair, self.dilation),
        )
        self.reset_offsets()
        _count_products()

    def reset_offsets(self) -> None:
        """Makes this a plain convolution again."""
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = self.offsets(input).float()
        num_cells = found.shape[1] // 3
        shifts, counts = found[:, : 2 * num_cells], 2 * found[:, 2 * num_cells :].sigmoid()
        if input.device.type == "cpu" and not torch.compiler.is_compiling():
            result = self._by_sums(input.float(), shifts, counts)
        else:
            result = self._by_operator(input.float(), shifts, counts)
        if input.is_contiguous(memory_format=torch.channels_last):
            result = result.contiguous(memory_format=torch.channels_last)
        return result.to(input.dtype)

    def _by_operator(self, input: Tensor, shifts: Tensor, counts: Tensor) -> Tensor:
        """By torchvision's operator, `shifts` (B, 2 T, H, W) and `counts` (B, T, H, W) of the result."""
        no_bias = input.new_zeros(self.out_channels)
        geometry = (*cast(Pair, self.stride), *cast(Pair, self.padding), *cast(Pair, self.dilation))
        arguments = (input, self.weight.float(), shifts, counts, no_bias, *geometry, self.groups, 1, True)
        return cast(Tensor, torch.ops.torchvision.deform_conv2d(*arguments))

    def _by_sums(self, input: Tensor, shifts: Tensor, counts: Tensor) -> Tensor:
        """The same on a CPU in a fraction of the operator's time: what a cell of the kernel reads is a weighted sum of
        four rows of the pixels' table, and the gradients of such sums are sums of rows again."""
        height, width = input.shape[2:]
        images, _, rows, columns = shifts.shape
        (y, y_share), (x, x_share) = (
            _corners(self, shifts[:, axis::2].permute(0, 2, 3, 1), axis, size)
            for axis, size in enumerate((height, width))
        )
        counts = counts.permute(0, 2, 3, 1)[..., None, None]
        weights = y_share[..., :, None] * (x_share[..., None, :] * counts)  # (B, H, W, T, 2, 2)
        first = torch.arange(images).reshape(-1, 1, 1, 1, 1, 1) * (height * width)
        places = first + y[..., :, None] * width + x[..., None, :]
        table = input.permute(0, 2, 3, 1).reshape(-1, input.shape[1])
        read = F.embedding_bag(
            places.reshape(-1, 4), table, mode="sum", per_sample_weights=weights.reshape(-1, 4)
        )
        # For each group: its inputs at each cell of the kernel, then its kernels, cell by cell.
        groups, kernels = self.groups, self.out_channels // self.groups
        cells = self.size[0] * self.size[1]
        read = read.reshape(-1, cells, groups, input.shape[1] // groups).permute(2, 0, 1, 3).flatten(2)
        weight = self.weight.float().reshape(groups, kernels, -1, cells).permute(0, 3, 2, 1).flatten(1, 2)
        products = (read @ weight).transpose(0, 1)
        return products.reshape(images, rows, columns, self.out_channels).permute(0, 3, 1, 2)


def _corners(conv: DeformableConv2d, shifts: Tensor, axis: int, size: int) -> tuple[Tensor, Tensor]:
    """The pixels (B, H, W, T, 2) before and behind each place along `axis`, 0 for y and 1 for x, of an image of `size`
    pixels for `shifts` (B, H, W, T), int64 and inside of the image; and what counts of them: the nearer, the more, and
    nothing of what lies outside."""
    stride, padding, dilation = (
        cast(Pair, value)[axis] for value in (conv.stride, conv.padding, conv.dilation)
    )
    cell = torch.arange(shifts.shape[3])
    cell = cell % conv.size[1] if axis else cell // conv.size[1]
    start = torch.arange(shifts.shape[1 + axis]).reshape((1, -1, 1) if axis else (-1, 1, 1)) * stride
    place = start + cell * dilation - padding + shifts
    before = place.detach().floor()
    part = place - before
    both = torch.stack((before, before + 1), dim=-1)
    is_inside = (both >= 0) & (both < size)
    weight = torch.stack((1 - part, part), dim=-1) * is_inside
    return both.where(is_inside, 0).long(), weight


@cache
def _count_products() -> None:
    """Has torchvision's operator ready, and tells torch how many products it computes, for whoever counts them."""
    import torch.utils.flop_counter
    import torchvision.ops  # noqa: F401  # pyright: ignore[reportMissingTypeStubs, reportUnusedImport]

    def count(input: list[int], weight: list[int], *_: Any, out_shape: list[int], **__: Any) -> int:
        images, channels, height, width = out_shape
        inputs, rows, columns = weight[1:]
        return 2 * images * channels * height * width * inputs * rows * columns

    register = cast(Any, torch.utils.flop_counter).register_flop_formula
    register(torch.ops.torchvision.deform_conv2d)(count)
