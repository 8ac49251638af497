"""Normalisation layers by name: batch, frozen, sync, group; and convolutions taken together with them."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_choice

Norm = Literal["batch", "frozen", "sync", "group"]
NORMS = get_args(Norm)


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and fixed scale and shift: nothing in it is ever trained.

    State dict keys are those of `nn.BatchNorm2d`, so its weights load as they are. Computes in the dtype
    of its input: bf16 maps stay bf16, which saves most of the memory traffic of a frozen backbone.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = _scale_and_shift(self)
        # addcmul is one kernel and one rounding where `x * scale + shift` would be two
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # only a trained batch norm counts batches
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, differentiated in float32 where torch's kernel in bf16 takes twice as long: on a CPU, with less
    than 16 channels in a group."""

    def forward(self, input: Tensor) -> Tensor:
        slow = input.device.type == "cpu" and input.dtype == torch.bfloat16 and torch.is_grad_enabled()
        if not slow or not self.affine or self.num_channels >= 16 * self.num_groups:
            return super().forward(input)
        result = _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)
        assert isinstance(result, Tensor)
        return result


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.sizes = len(x), x.shape[1], x.shape[2:].numel(), groups
        y, mean, rstd = torch.native_group_norm(x, weight, bias, *ctx.sizes, eps)
        ctx.save_for_backward(x, mean, rstd, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, _, _, weight = ctx.saved_tensors
        exact = [tensor.float() for tensor in (*gradients, *ctx.saved_tensors)]
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.native_group_norm_backward(*exact, *ctx.sizes, wanted)
        dtypes = x.dtype, weight.dtype, weight.dtype
        return *(g if g is None else g.to(t) for g, t in zip(found, dtypes, strict=True)), None, None


def conv_then_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(conv(x))` at the cost of the convolution alone where the norm has fixed statistics.

    Such a norm is a factor and a shift for each channel, which go into the weights here, at every call and
    differentiably: training with frozen norms reads and writes half as much memory, most of all in bf16.
    Equal to the two in turn but for rounding. Hooks on either module are not called then.
    """
    if type(conv) is not nn.Conv2d or not _has_fixed_statistics(norm):
        return norm(conv(x))
    scale, shift = _scale_and_shift(norm)
    if conv.bias is not None:
        shift = torch.addcmul(shift, conv.bias, scale)
    return conv._conv_forward(x, conv.weight * scale.view(-1, 1, 1, 1), shift)


class ConvNormSequential(nn.Sequential):
    """Layers one after another, each norm that follows a convolution taken together with it."""

    def forward(self, input: Tensor) -> Tensor:
        x, layers = input, list(self)
        while layers:
            layer = layers.pop(0)
            if layers and isinstance(layer, nn.Conv2d):
                x = conv_then_norm(layer, layers.pop(0), x)
            else:
                x = layer(x)
        return x


def _has_fixed_statistics(norm: nn.Module) -> bool:
    if isinstance(norm, _BatchNorm):
        return not norm.training and norm.running_var is not None and norm.affine
    return isinstance(norm, FrozenBatchNorm2d)


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """The two vectors (C,) with norm(x) = x * scale + shift."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, torch.addcmul(norm.bias, norm.running_mean, scale, value=-1)


def make_norm(norm: str, channels: int, eps: float = 1e-5) -> nn.Module:
    """The norm layer called `norm` for maps of `channels` channels.

    "group" has 32 groups (Group Normalization, section 4), or the nearest smaller number that divides
    `channels` and leaves at least two of them in a group.
    """
    check_choice("norm", norm, NORMS)
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=eps)
    if norm == "frozen":
        return FrozenBatchNorm2d(channels, eps=eps)
    if norm == "sync":
        return nn.SyncBatchNorm(channels, eps=eps)
    most = max(1, min(32, channels // 2))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return GroupNorm(groups, channels, eps=eps)
