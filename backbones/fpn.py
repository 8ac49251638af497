"""Feature pyramid: the strong meaning of deep maps at the resolution of shallow ones.

Feature Pyramid Networks for Object Detection (Lin et al., 2017). Parameter names and
numerics are torchvision's.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_choice, check_positive
from .features import FeatureInfo
from .layers import NORMS, ConvNormSequential, Norm, make_norm

Extra = Literal["none", "pool", "conv_c5", "conv_p5"]
Fuse = Literal["sum", "average"]


class FPN(nn.Module):
    """Maps c2 … c5 of any extractor to p2 … p5 (…, p7), all of `channels` channels.

    Args:
        feature_info: the extractor's.
        channels: channels of each map given out.
        levels: keys of the maps to use, finest first; None takes all. RetinaNet leaves out c2.
        norm: norm after each convolution, which then has no bias; None for neither.
        extra: levels past the coarsest: "pool" takes every second cell of the last map (one level, as R-CNNs
            do), "conv_c5" and "conv_p5" add two by strided convolutions, starting from the backbone's
            coarsest map or from the pyramid's (RetinaNet, section 4; FCOS, section 3.2).
        fuse: how a map and the upsampled coarser one are combined.
    """

    feature_info: dict[str, FeatureInfo]

    def __init__(
        self,
        feature_info: Mapping[str, FeatureInfo],
        *,
        channels: int = 256,
        levels: Sequence[str] | None = None,
        norm: Norm | None = None,
        extra: Extra = "pool",
        fuse: Fuse = "sum",
    ):
        super().__init__()
        check_positive("channels", channels)
        check_choice("norm", norm, (None, *NORMS))
        check_choice("fuse", fuse, ("sum", "average"))
        self.levels = choose_levels(feature_info, levels)
        self.fuse = fuse
        self.inner_blocks = nn.ModuleList(
            conv_norm(feature_info[level].channels, channels, 1, norm) for level in self.levels
        )
        self.layer_blocks = nn.ModuleList(conv_norm(channels, channels, 3, norm) for _ in self.levels)
        self.extra_blocks = ExtraLevels(extra, self.levels, feature_info, channels)
        self.feature_info = {
            f"p{level[1:]}": FeatureInfo(channels, feature_info[level].stride) for level in self.levels
        } | self.extra_blocks.feature_info

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        merged = self.top_down(features)
        maps = [block(x) for block, x in zip(self.layer_blocks, merged, strict=True)]
        maps += self.extra_blocks(features[self.levels[-1]], maps[-1])
        return dict(zip(self.feature_info, maps, strict=True))

    def top_down(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """The merged maps before their last convolution, finest first."""
        laterals = [
            block(features[level]) for block, level in zip(self.inner_blocks, self.levels, strict=True)
        ]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            # to the lateral's size and not by a factor of 2: odd sizes, and dilated stages of equal size
            coarser = _enlarged(merged[0], lateral)
            total = lateral.add_(coarser)
            merged.insert(0, total / 2 if self.fuse == "average" else total)
        return merged


def _enlarged(coarser: Tensor, lateral: Tensor) -> Tensor:
    """The nearest cells, in the map's own precision: autocast would make it float32, of four times the size."""
    if coarser.is_meta:  # of which costs are counted, and which autocast does not know
        return F.interpolate(coarser, size=lateral.shape[-2:], mode="nearest")
    with torch.autocast(coarser.device.type, enabled=False):
        return F.interpolate(coarser, size=lateral.shape[-2:], mode="nearest")


class ExtraLevels(nn.Module):
    """Levels past the coarsest map of a pyramid; see `FPN` for `extra`."""

    feature_info: dict[str, FeatureInfo]

    def __init__(
        self, extra: Extra, levels: Sequence[str], feature_info: Mapping[str, FeatureInfo], channels: int
    ):
        super().__init__()
        check_choice("extra", extra, ("none", "pool", "conv_c5", "conv_p5"))
        self.extra = extra
        last, stride = int(levels[-1][1:]), feature_info[levels[-1]].stride
        self.names = tuple(f"p{last + n}" for n in range(1, {"none": 0, "pool": 1}.get(extra, 2) + 1))
        if extra in ("conv_c5", "conv_p5"):
            from_channels = feature_info[levels[-1]].channels if extra == "conv_c5" else channels
            for name, inputs in zip(self.names, (from_channels, channels), strict=True):
                conv = nn.Conv2d(inputs, channels, 3, 2, 1)
                _initialize(conv)
                self.add_module(name, conv)
        self.feature_info = {
            name: FeatureInfo(channels, stride * 2**n) for n, name in enumerate(self.names, start=1)
        }

    def forward(self, c_last: Tensor, p_last: Tensor) -> list[Tensor]:
        if self.extra == "none":
            return []
        if self.extra == "pool":
            return [F.max_pool2d(p_last, kernel_size=1, stride=2)]
        first, second = (self.get_submodule(name) for name in self.names)
        finer = first(_at_least_two_wide(c_last if self.extra == "conv_c5" else p_last))
        return [finer, second(_at_least_two_wide(F.relu(finer)))]


def _at_least_two_wide(x: Tensor) -> Tensor:
    """A map of width 1 with a column of zeros behind it, which is what a strided convolution pads it with anyway.

    In bf16 on a CPU, torch 2.14 reads the gradient of such a convolution's weights from memory that nothing
    has written where the map is one cell wide. No backbone has such maps before its own: images are at least as wide
    as its largest stride.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_grad_enabled():
        return x
    return F.pad(x, (0, 1)) if x.shape[-1] == 1 else x


def choose_levels(feature_info: Mapping[str, FeatureInfo], levels: Sequence[str] | None) -> tuple[str, ...]:
    """`levels` in growing stride, or all of them; ValueError for one that the extractor does not give."""
    if levels is None:
        return tuple(feature_info)
    unknown = [level for level in levels if level not in feature_info]
    if unknown or not levels:
        raise ValueError(
            f"levels={list(levels)} must be one or more of {', '.join(feature_info)}, the backbone's maps"
        )
    return tuple(level for level in feature_info if level in levels)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, norm: str | None, stride: int = 1, relu: bool = False
) -> nn.Sequential:
    """Convolution, then norm and ReLU where asked for; its bias is there exactly if no norm follows."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm is None)
    _initialize(conv)
    layers: list[nn.Module] = [conv]
    if norm is not None:
        layers.append(make_norm(norm, out_channels))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return ConvNormSequential(*layers)


def _initialize(conv: nn.Conv2d) -> None:
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
