"""Gradients of convolutions in groups, which CPUs compute several times as fast in float32 as in bf16."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


def quick_groups(x: Tensor) -> AbstractContextManager[object]:
    """Inside, convolutions in groups under autocast to bf16 on a CPU have their gradients computed in float32 and cast
    to bf16; their outputs are the same to the bit. Elsewhere, and without gradients, it changes nothing.

    oneDNN has no quick kernels for such gradients in bf16: those of EfficientNets, ConvNeXts and ResNeXts took 3 to 6
    times as long, but for depthwise ones of 3 x 3 without a stride.
    """
    applies = (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.compiler.is_compiling()
    )
    return _Quick() if applies else nullcontext()


class _Quick(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv2d and (found := _convolve(*args, **(kwargs or {}))) is not None:
            return found
        return func(*args, **(kwargs or {}))


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """None where the gradients are quick as they are."""
    if groups == 1 or input.ndim != 4 or isinstance(padding, str):
        return None
    if weight.shape[1] <= 1 and max(weight.shape[2:]) <= 3 and max(_pair(stride)) == 1:
        return None
    x, weight = input.bfloat16(), weight.bfloat16()  # what autocast does
    bias = None if bias is None else bias.bfloat16()
    return _Grouped.apply(x, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups)


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = stride, padding, dilation, groups
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        found = torch.ops.aten.convolution_backward(
            gradient.float(),
            x.float(),
            weight.float(),
            [len(weight)],
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            list(ctx.needs_input_grad[:3]),
        )
        return *(None if value is None else value.to(x.dtype) for value in found), None, None, None, None
