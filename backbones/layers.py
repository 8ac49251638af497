"""Normalisation layers by name: batch, frozen, sync, group; and convolutions taken together with what follows them."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from .checks import check_choice
from .kernels import compiles_kernels

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
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # pyright: ignore[reportUnknownMemberType]

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, differentiated in float32 where torch's kernel in bf16 takes twice as long: on a CPU, with less
    than 16 channels in a group. On CUDA, maps in half precision stay as they are (`triton_group_norm.py`)."""

    def forward(self, input: Tensor) -> Tensor:
        may_have_kernels = self.affine and is_half(input) and not torch.compiler.is_compiling()
        if may_have_kernels and (result := self._by_kernels(input)) is not None:
            return result
        slow = input.device.type == "cpu" and input.dtype == torch.bfloat16 and torch.is_grad_enabled()
        if not slow or not self.affine or self.num_channels >= 16 * self.num_groups:
            return super().forward(input)
        return cast(Tensor, _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps))

    def _by_kernels(self, input: Tensor) -> Tensor | None:
        if not compiles_kernels(input.device):
            return None
        from .triton_group_norm import GroupNormChannelsLast

        if not GroupNormChannelsLast.takes(input, self.num_groups):
            return None
        arguments = input, self.weight, self.bias, self.num_groups, self.eps
        return cast(Tensor, GroupNormChannelsLast.apply(*arguments))


NORM_LAYERS = (BatchNorm, FrozenBatchNorm2d, nn.GroupNorm)


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


def conv_then_norm(
    conv: nn.Module, norm: nn.Module | None, x: Tensor, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """`norm(conv(x))`, plus `residual` and then ReLU where asked for, at the cost of the convolution alone where the
    norm has fixed statistics or there is none.

    Such a norm is a factor and a shift for each channel, which go into the weights here, at every call and
    differentiably: training with frozen norms reads and writes half as much memory, most of all in bf16.
    Equal to the two in turn but for rounding. Hooks on either module are not called then.
    """
    if type(conv) is nn.Conv2d and _has_fixed_statistics(norm):
        return _convolve(conv, x, *_folded(conv, norm, x), residual, relu)
    if norm is None and type(conv) is nn.Conv2d and relu and _fits_cudnn(conv, x, residual):
        return _convolve(conv, x, conv.weight, conv.bias, residual, relu)
    y = conv(x) if norm is None else norm(conv(x))
    if residual is not None:
        y += residual
    return F.relu_(y) if relu else y


_KEPT = "_folded_weights"


@contextmanager
def keep_folded(model: nn.Module) -> Generator[None, None, None]:
    """Inside, `fold_once` holds for `model`."""
    fold_once(model)
    try:
        yield
    finally:
        for module in model.modules():
            module.__dict__.pop(_KEPT, None)


def fold_once(model: nn.Module) -> None:
    """From now on predictions of `model` take fixed norms into the weights once, and not at every call.

    For a model whose weights no longer change; with gradients nothing is kept. Results are equal to the bit.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__dict__[_KEPT] = {}


def one_pass(model: nn.Module, x: Tensor) -> AbstractContextManager[None]:
    """Inside, `model` casts a weight once, for however many maps it is used, and works out all its frozen norms
    together; on CUDA in half precision, where each small operator costs the host more than the device.

    Values are the same. Gradients of a weight that several maps share are added in half precision then, as autocast
    has it for its own operators.
    """
    if torch.compiler.is_compiling() or not is_half(x):
        return nullcontext()
    return _one_pass(model, _half_dtype(x))


@contextmanager
def _one_pass(model: nn.Module, dtype: torch.dtype) -> Generator[None, None, None]:
    convolutions = [module for module in model.modules() if type(module) is nn.Conv2d]
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    if norms and not any(_KEPT in conv.__dict__ for conv in convolutions):
        for norm, pair in zip(norms, _scales_and_shifts(norms, dtype), strict=True):
            norm.__dict__[_PAIR] = pair
    for conv in convolutions:
        conv.__dict__[_CASTS] = {}
    try:
        yield
    finally:
        for module in (*convolutions, *norms):
            for name in (_CASTS, _PAIR):
                module.__dict__.pop(name, None)


_CASTS, _PAIR = "_casts", "_scale_and_shift"


def _scales_and_shifts(norms: list[FrozenBatchNorm2d], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """`_scale_and_shift` of each, the shift in `dtype`, in ten operators for all."""
    sizes = [norm.num_features for norm in norms]
    weight, bias, mean, var = (
        torch.cat([getattr(norm, name) for norm in norms])
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    eps = {norm.eps for norm in norms}
    if len(eps) == 1:
        var += eps.pop()
    else:
        for part, norm in zip(torch.split(var, sizes), norms, strict=True):
            part += norm.eps
    scale = weight * var.rsqrt()
    shift = torch.addcmul(bias, mean, scale, value=-1).to(dtype)
    return list(zip(torch.split(scale, sizes), torch.split(shift, sizes), strict=True))


def _cast(conv: nn.Conv2d, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, from before if it is a parameter of `conv` that has been cast in this pass."""
    casts: dict[Any, Tensor] | None = conv.__dict__.get(_CASTS)
    if casts is None or (tensor is not conv.weight and tensor is not conv.bias):
        return tensor.to(dtype)
    key = tensor is conv.bias, dtype, torch.is_grad_enabled()
    if key not in casts:
        casts[key] = tensor.to(dtype)
    return casts[key]


class _Scaled(torch.autograd.Function):
    """weight * scale, rounded to half precision in the same pass, and so its gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(scale)
        return torch.mul(weight, scale, out=torch.empty_like(weight, dtype=dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (scale,) = ctx.saved_tensors
        return gradients[0] * scale, None, None


def _folded(conv: nn.Conv2d, norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with its norm in them."""
    pair: tuple[Tensor, Tensor] | None = norm.__dict__.get(_PAIR)
    if pair is not None and conv.bias is None:
        scale, shift = pair
        return cast(Tensor, _Scaled.apply(conv.weight, scale.view(-1, 1, 1, 1), shift.dtype)), shift
    kept = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else conv.__dict__.get(_KEPT)
    device = x.device.type
    is_autocast = device != "meta" and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if is_autocast else x.dtype
    if kept is not None and (found := kept.get((x.device, dtype))) is not None:
        return found
    scale, shift = _scale_and_shift(norm)
    if conv.bias is not None:
        shift = torch.addcmul(shift, conv.bias, scale)
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    if kept is not None:
        weight, shift = weight.to(dtype), shift.to(dtype)
        kept[x.device, dtype] = weight, shift
    return weight, shift


def _convolve(
    conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool
) -> Tensor:
    """`conv` with another `weight` and `bias`, plus `residual`, then ReLU where asked for.

    On CUDA in half precision cuDNN does all of it in one pass over the output, and rounds once.
    """
    if relu and bias is not None and _fits_cudnn(conv, x, residual):
        dtype = _half_dtype(x)
        parts = x.to(dtype), _cast(conv, weight, dtype), _cast(conv, bias, dtype), residual
        return cast(Tensor, _ConvReLU.apply(*parts, conv.stride, conv.padding, conv.dilation))
    y = conv._conv_forward(x, weight, bias)  # pyright: ignore[reportPrivateUsage]
    if residual is not None:
        y += residual
    return F.relu_(y) if relu else y


class _ConvReLU(torch.autograd.Function):
    """relu(conv(x) + bias + residual) by cuDNN's fused operator, which has no gradient of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> Tensor:
        weight = weight.contiguous(memory_format=torch.channels_last)
        if residual is None:
            y = torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
        else:
            y = torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, stride, padding, dilation, 1)
        ctx.save_for_backward(x, weight, y)
        ctx.geometry = stride, padding, dilation
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, y = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradients[0], y, 0)
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)], *ctx.geometry, False, [0, 0], 1, wanted
        )
        return *found, gradient if ctx.needs_input_grad[3] else None, None, None, None


def is_half(x: Tensor) -> bool:
    """Whether a CUDA map is, or autocast will make it, of half precision."""
    return x.is_cuda and _half_dtype(x) in (torch.bfloat16, torch.float16)


def _half_dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype


def _fits_cudnn(conv: nn.Conv2d, x: Tensor, residual: Tensor | None) -> bool:
    """CuDNN has fused operators for maps in half precision, channels_last, of multiples of 8 channels."""
    if not is_half(x) or torch.compiler.is_compiling() or not torch.backends.cudnn.enabled:
        return False
    simple = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    wide = conv.in_channels % 8 == 0 and conv.out_channels % 8 == 0 and x.numel() > 0
    maps = [x] if residual is None else [x, residual]
    last = all(one.is_contiguous(memory_format=torch.channels_last) for one in maps)
    return simple and wide and last and (residual is None or residual.dtype == _half_dtype(x))


class ConvNormSequential(nn.Sequential):
    """Layers one after another, each norm and each ReLU that follows a convolution taken together with it."""

    def forward(self, input: Tensor) -> Tensor:
        x, layers = input, list(self)
        while layers:
            layer = layers.pop(0)
            if type(layer) is not nn.Conv2d:
                x = layer(x)
                continue
            norm = layers.pop(0) if layers and isinstance(layers[0], NORM_LAYERS) else None
            relu = bool(layers) and type(layers[0]) is nn.ReLU
            if relu:
                layers.pop(0)
            x = conv_then_norm(layer, norm, x, relu=relu)
        return x


def _has_fixed_statistics(norm: nn.Module | None) -> bool:
    if isinstance(norm, BatchNorm):
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
    if norm != "group":
        of_name = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "sync": nn.SyncBatchNorm}
        return of_name[norm](channels, eps=eps)
    most = max(1, min(32, channels // 2))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return GroupNorm(groups, channels, eps=eps)
