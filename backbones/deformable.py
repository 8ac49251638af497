"""Deformable convolutions: each cell says where its kernel reads, and how much of what it reads there counts.

Deformable ConvNets v2: More Deformable, Better Results (Zhu et al., 2019), section 3.2.

Legend:
    B  images     C  channels     T  cells of the kernel     H, W  rows and columns of the result
"""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeformableConv2d(nn.Conv2d):
    """`nn.Conv2d` whose kernel reads at places that `offsets`, a convolution beside it, finds for each cell.

    `offsets` starts at zero, where all is as in the plain convolution, whose weights load under the same names: what
    counts of each place is twice the paper's sigmoid, which would start at a half. Computed in float32.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        assert self.padding_mode == "zeros" and not isinstance(self.padding, str) and self.bias is None
        # For each cell of the kernel its shift along y and x, then for each what counts of it.
        outputs = 3 * math.prod(self.kernel_size)
        self.offsets = nn.Conv2d(
            self.in_channels, outputs, self.kernel_size, self.stride, self.padding, self.dilation
        )
        self.reset_offsets()
        _register()

    def reset_offsets(self) -> None:
        """Makes this a plain convolution again."""
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        found = self.offsets(input).float()
        num_cells = found.shape[1] // 3
        shifts, counts = found.split([2 * num_cells, num_cells], dim=1)
        exact, counts, weight = input.float(), 2 * counts.sigmoid(), self.weight.float()
        if input.device.type == "cpu" and not torch.compiler.is_compiling():
            result = self._by_sampling(exact, shifts, counts, weight)
        else:
            from torchvision.ops import deform_conv2d  # here, as importing torchvision takes seconds

            geometry: Any = (self.stride, self.padding, self.dilation)
            result = deform_conv2d(exact, shifts, weight, None, *geometry, counts)
        if input.is_contiguous(memory_format=torch.channels_last):
            result = result.contiguous(memory_format=torch.channels_last)
        return result.to(input.dtype)

    def _by_sampling(self, input: Tensor, shifts: Tensor, counts: Tensor, weight: Tensor) -> Tensor:
        """What torchvision's operator computes, whose gradient takes five times as long on a CPU."""
        height, width = shifts.shape[2:]
        shift_y, shift_x = shifts.unflatten(1, (-1, 2)).unbind(2)  # (B, T, H, W)
        y, x = (
            torch.arange(size) * stride - padding
            for size, stride, padding in zip((height, width), self.stride, self.padding, strict=True)  # type: ignore[arg-type]
        )
        kernel = (
            torch.arange(size) * step for size, step in zip(self.kernel_size, self.dilation, strict=True)
        )
        cell_y, cell_x = (cells.flatten()[:, None, None] for cells in torch.meshgrid(*kernel, indexing="ij"))
        y, x = shift_y + y[:, None] + cell_y, shift_x + x + cell_x
        # From pixels to -1 … 1, the outer edges of the first pixel and the last.
        places = torch.stack(((2 * x + 1) / input.shape[3] - 1, (2 * y + 1) / input.shape[2] - 1), dim=-1)
        read = F.grid_sample(input, places.flatten(1, 2), padding_mode="zeros", align_corners=False)
        read = read.view(len(input), input.shape[1], -1, height * width) * counts.flatten(2)[:, None]
        columns = read.view(len(input), self.groups, -1, height * width)
        return (weight.view(self.groups, -1, columns.shape[2]) @ columns).view(len(input), -1, height, width)


@cache
def _register() -> None:
    """Tells torch how many products the operator computes, for whoever counts them."""
    import torchvision.ops  # noqa: F401 (it has the operator)
    from torch.utils.flop_counter import register_flop_formula

    @register_flop_formula(torch.ops.torchvision.deform_conv2d)
    def count(input: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:  # pyright: ignore[reportUnusedFunction]
        return 2 * math.prod(out_shape) * math.prod(weight[1:])
