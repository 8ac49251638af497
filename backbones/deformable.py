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
    counts of each place is twice the paper's sigmoid, which would start at a half. Computed in float32.
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
            result = self._by_sampling(input.float(), shifts, counts)
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

    def _by_sampling(self, input: Tensor, shifts: Tensor, counts: Tensor) -> Tensor:
        """The same, whose gradient takes a fifth of the operator's time on a CPU."""
        height, width = shifts.shape[2:]
        stride, padding, dilation = (
            cast(Pair, value) for value in (self.stride, self.padding, self.dilation)
        )
        rows, columns = self.size
        cell = torch.arange(rows * columns)[:, None, None]
        y = torch.arange(height)[:, None] * stride[0] - padding[0] + cell // columns * dilation[0]
        x = torch.arange(width) * stride[1] - padding[1] + cell % columns * dilation[1]
        # From pixels to -1 … 1, the outer edges of the first pixel and the last.
        y = (2 * (y + shifts[:, 0::2]) + 1) / input.shape[2] - 1  # (B, T, H, W)
        x = (2 * (x + shifts[:, 1::2]) + 1) / input.shape[3] - 1
        places = torch.stack((x, y), dim=-1).flatten(1, 2)
        read = F.grid_sample(input, places, padding_mode="zeros", align_corners=False)  # (B, C, T * H, W)
        counted = read.reshape(*read.shape[:2], -1, height, width) * counts[:, None]
        weight = self.weight.float().reshape(self.groups, self.out_channels // self.groups, -1)
        products = weight @ counted.reshape(len(input), self.groups, weight.shape[2], height * width)
        return products.reshape(len(input), self.out_channels, height, width)


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
