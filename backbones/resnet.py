"""ResNets of any depth: ResNet, ResNeXt, Wide ResNet, the D variant, and plain networks without shortcuts.

Deep Residual Learning for Image Recognition (He et al., 2016). Parameter names are torchvision's, and timm's
for the deep stem, so that both kinds of published weights load as they are.

    stage   blocks at one resolution (`layer1` …); its first block changes channels and resolution
    width   channels of the 3x3 convolutions of a stage before grouping or widening (64, 128, 256, 512)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .checkpointing import run_checkpointed
from .checks import check_choice, check_counts, check_positive
from .deformable import DeformableConv2d
from .features import FeatureExtractor, FeatureInfo
from .freezing import freeze
from .layers import ConvNormSequential, Norm, conv_then_norm, make_norm, one_pass
from .spec import describes_itself

NormLayer = Callable[[int], nn.Module]  # from a number of channels
EXPANSION = {"basic": 1, "bottleneck": 4}  # channels that a block gives out, in widths


def conv3x3(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    kind: type[nn.Conv2d] = nn.Conv2d,
) -> nn.Conv2d:
    """3x3 convolution whose output has ceil(size / stride) cells."""
    return kind(in_channels, out_channels, 3, stride, dilation, dilation, groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution whose output has ceil(size / stride) cells."""
    kind = _SparseConv1x1 if stride > 1 and in_channels < 16 else nn.Conv2d
    return kind(in_channels, out_channels, 1, stride, bias=False)


class _SparseConv1x1(nn.Conv2d):
    """A strided 1x1 convolution that leaves out the cells between first.

    On a CPU, torch 2.14 writes past the end of memory in the weights' gradient of a strided one of fewer than 16
    channels.
    """

    def forward(self, input: Tensor) -> Tensor:
        down, right = self.stride
        return F.conv2d(input[..., ::down, ::right], self.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. `downsample` is the shortcut where it is not the identity."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        dilations: tuple[int, int],
        norm: NormLayer,
        downsample: nn.Module | None,
        residual: bool,
        conv: type[nn.Conv2d],
    ):
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride, dilation=dilations[0], kind=conv)
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width, dilation=dilations[1], kind=conv)
        self.bn2 = norm(width)
        self.downsample = downsample
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = conv_then_norm(self.conv1, self.bn1, x, relu=True)
        return conv_then_norm(self.conv2, self.bn2, out, residual=_shortcut_of(self, x), relu=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped for ResNeXt, wider for Wide ResNet) and 1x1 convolution with four times the width."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        dilations: tuple[int, int],
        norm: NormLayer,
        downsample: nn.Module | None,
        residual: bool,
        conv: type[nn.Conv2d],
        groups: int,
        width_per_group: int,
        stride_in_1x1: bool,
    ):
        super().__init__()
        inner = width * width_per_group // 64 * groups
        if not inner:
            raise ValueError(
                f"a stage of width {width} has no channels left at width_per_group={width_per_group}; their "
                "product must be at least 64"
            )
        stride1, stride3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = conv1x1(in_channels, inner, stride1)
        self.bn1 = norm(inner)
        self.conv2 = conv3x3(inner, inner, stride3, groups, dilations[0], conv)
        self.bn2 = norm(inner)
        self.conv3 = conv1x1(inner, width * EXPANSION["bottleneck"])
        self.bn3 = norm(width * EXPANSION["bottleneck"])
        self.downsample = downsample
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = conv_then_norm(self.conv1, self.bn1, x, relu=True)
        out = conv_then_norm(self.conv2, self.bn2, out, relu=True)
        return conv_then_norm(self.conv3, self.bn3, out, residual=_shortcut_of(self, x), relu=True)


def _shortcut_of(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor | None:
    if not block.residual:
        return None
    return x if block.downsample is None else block.downsample(x)


class PaddedShortcut(nn.Module):
    """Option A of section 3.3: identity, with zero channels added and cells skipped; no parameters."""

    def __init__(self, new_channels: int, stride: int, pool: bool):
        super().__init__()
        # half in front, half behind, as the CIFAR weights that people publish were trained
        self.padding = (0, 0, 0, 0, new_channels // 2, new_channels - new_channels // 2)
        self.stride = stride
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        if self.pool and self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        else:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, self.padding)


class ResNet(FeatureExtractor):
    """A residual network of any depth, with random weights.

    Args:
        blocks: blocks in each stage, (3, 4, 6, 3) for ResNet-50.
        block: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1).
        widths: width of each stage; a bottleneck block gives out four times as much.
        groups: groups of the 3x3 convolution of a bottleneck (ResNeXt's cardinality).
        width_per_group: channels of a group at width 64 (ResNeXt's 4d, twice 64 for Wide ResNet).
        in_channels: channels of the images.
        stem: "7x7" of stride 2 and "deep" (three 3x3, the D variant) are followed by a pooling of stride 2;
            "3x3" has stride 1 and no pooling, for tiny images, and the maps start at c0.
        shortcut: where block input and output differ, "A" pads with zeros and "B" projects; "C" projects in
            every block (section 3.3); "none" leaves shortcuts out: a plain network.
        downsample: a strided 1x1 convolution ("conv"), or average pooling before it ("pool", the D variant).
        stride_in_1x1: halve the resolution in the first 1x1 convolution of a bottleneck, as the paper and the
            weights of detectron2 and Caffe do, and not in the 3x3 (v1.5).
        norm: layer after each convolution; "sync" shares statistics between GPUs, "frozen" has fixed ones.
        norm_eps: added to variances. torchvision's first COCO detectors were trained with 0.
        zero_init_residual: start each block as the identity (Goyal et al. 2017, section 5.1).
        output_stride: largest stride; stages past it keep their resolution and dilate their kernels.
        frozen_stages: see `freezing.freeze`.
        checkpoint_stages: stages (1 is the first) whose inner maps are computed again in the backward pass.
        deformable_stages: stages, named by their maps (3 is that of c3), whose 3x3 convolutions are deformable; the
            paper has 3, 4 and 5. They start as plain ones, and compute in float32.

    Raises:
        ValueError: an unknown choice, or options that do not go together.
    """

    @describes_itself("resnet")
    def __init__(
        self,
        *,
        blocks: Sequence[int],
        block: Literal["basic", "bottleneck"] = "bottleneck",
        widths: Sequence[int] = (64, 128, 256, 512),
        groups: int = 1,
        width_per_group: int = 64,
        in_channels: int = 3,
        stem: Literal["7x7", "deep", "3x3"] = "7x7",
        shortcut: Literal["A", "B", "C", "none"] = "B",
        downsample: Literal["conv", "pool"] = "conv",
        stride_in_1x1: bool = False,
        norm: Norm = "batch",
        norm_eps: float = 1e-5,
        zero_init_residual: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
        frozen_stages: int | None = None,
        checkpoint_stages: Sequence[int] = (),
        deformable_stages: Sequence[int] = (),
    ):
        super().__init__()
        check_choice("stem", stem, ("7x7", "deep", "3x3"))
        check_choice("shortcut", shortcut, ("A", "B", "C", "none"))
        check_choice("downsample", downsample, ("conv", "pool"))
        check_choice("output_stride", output_stride, (8, 16, 32))
        check_positive("in_channels", in_channels)
        _check_stages(blocks, widths, checkpoint_stages)
        make_block = _block_maker(block, groups, width_per_group, stride_in_1x1)
        if zero_init_residual and shortcut == "none":
            raise ValueError(
                "zero_init_residual=True starts blocks as the identity, but without shortcuts "
                "(shortcut='none') they would all give zero; leave one of the two out"
            )
        self.in_channels = in_channels
        self.checkpoint_stages = frozenset(checkpoint_stages)
        norm_layer = partial(make_norm, norm, eps=norm_eps)

        self.conv1 = _stem(in_channels, widths[0], stem, norm_layer)
        self.bn1 = norm_layer(widths[0])
        self.maxpool = nn.Identity() if stem == "3x3" else nn.MaxPool2d(3, 2, 1)

        first_level = 0 if stem == "3x3" else 2
        _check_deformable(deformable_stages, first_level, len(blocks))
        channels, net_stride, dilation = widths[0], 2**first_level, 1
        self.feature_info = {}
        for stage, (num_blocks, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            stride, last_dilation = (1 if stage == 1 else 2), dilation
            if net_stride * stride > output_stride:  # keep the resolution, spread the kernels instead
                stride, dilation = 1, dilation * stride
            net_stride *= stride
            level = first_level + stage - 1
            layers: list[nn.Module] = []
            for index in range(num_blocks):
                block_stride = stride if index == 0 else 1
                out_channels = width * EXPANSION[block]
                layers.append(
                    make_block(
                        channels,
                        width,
                        stride=block_stride,
                        # the first block still sees the resolution of the stage before
                        dilations=(last_dilation if index == 0 else dilation, dilation),
                        norm=norm_layer,
                        downsample=_shortcut(
                            channels, out_channels, block_stride, shortcut, downsample, norm_layer
                        ),
                        residual=shortcut != "none",
                        conv=DeformableConv2d if level in deformable_stages else nn.Conv2d,
                    )
                )
                channels = out_channels
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            self.feature_info[f"c{level}"] = FeatureInfo(channels, net_stride)
        self.stages = (("conv1", "bn1"), *((f"layer{stage + 1}",) for stage in range(len(blocks))))
        self._initialize(zero_init_residual)
        freeze(self, frozen_stages)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.check_images(images)
        features: dict[str, Tensor] = {}
        with one_pass(self, images):
            x = self.maxpool(conv_then_norm(self.conv1, self.bn1, images, relu=True))
            for stage, level in enumerate(self.feature_info, start=1):
                layer = self.get_submodule(f"layer{stage}")
                x = run_checkpointed(layer, x) if stage in self.checkpoint_stages else layer(x)
                features[level] = x
        return features

    def _initialize(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # section 3.4, by way of torchvision
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                assert isinstance(last.weight, Tensor)
                nn.init.zeros_(last.weight)
        for module in self.modules():
            if isinstance(module, DeformableConv2d):
                module.reset_offsets()


def _stem(in_channels: int, width: int, stem: str, norm: NormLayer) -> nn.Module:
    """The convolutions before the first norm `bn1` of the network."""
    if stem == "7x7":
        return nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
    if stem == "3x3":
        return conv3x3(in_channels, width)
    half = width // 2  # Bag of Tricks for Image Classification (He et al., 2019), figure 2b
    return ConvNormSequential(
        conv3x3(in_channels, half, 2),
        norm(half),
        nn.ReLU(inplace=True),
        conv3x3(half, half),
        norm(half),
        nn.ReLU(inplace=True),
        conv3x3(half, width),
    )


def _shortcut(
    in_channels: int, out_channels: int, stride: int, shortcut: str, downsample: str, norm: NormLayer
) -> nn.Module | None:
    """What the shortcut of one block does; None is the identity, or no shortcut at all."""
    changes = stride != 1 or in_channels != out_channels
    if shortcut == "none" or (shortcut != "C" and not changes):
        return None
    if shortcut == "A":
        if out_channels < in_channels:
            raise ValueError(
                f"shortcut='A' pads with zeros, but a stage narrows from {in_channels} to {out_channels} "
                "channels; choose shortcut='B', or widths that grow"
            )
        return PaddedShortcut(out_channels - in_channels, stride, downsample == "pool")
    if downsample == "conv":
        return ConvNormSequential(conv1x1(in_channels, out_channels, stride), norm(out_channels))
    # Bag of Tricks, figure 2c: a strided 1x1 convolution would never see three quarters of its input
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return ConvNormSequential(pool, conv1x1(in_channels, out_channels), norm(out_channels))


def _block_maker(
    block: str, groups: int, width_per_group: int, stride_in_1x1: bool
) -> Callable[..., nn.Module]:
    """The block class with the options that only it has."""
    check_choice("block", block, ("basic", "bottleneck"))
    check_positive("groups", groups)
    check_positive("width_per_group", width_per_group)
    if block == "bottleneck":
        return partial(
            Bottleneck, groups=groups, width_per_group=width_per_group, stride_in_1x1=stride_in_1x1
        )
    if groups != 1 or width_per_group != 64 or stride_in_1x1:
        raise ValueError(
            "groups, width_per_group and stride_in_1x1 change a bottleneck's convolutions, which "
            "block='basic' does not have; choose block='bottleneck' or leave them out"
        )
    return BasicBlock


def _check_stages(blocks: Sequence[int], widths: Sequence[int], checkpoint_stages: Sequence[int]) -> None:
    check_counts("blocks", blocks)
    check_counts("widths", widths)
    check_counts("checkpoint_stages", checkpoint_stages)
    if len(blocks) != len(widths) or not blocks:
        raise ValueError(
            f"blocks={list(blocks)} has {len(blocks)} stages but widths={list(widths)} has {len(widths)}; "
            "give one width for each stage"
        )
    if any(stage not in range(1, len(blocks) + 1) for stage in checkpoint_stages):
        raise ValueError(f"checkpoint_stages={list(checkpoint_stages)} must name stages 1 to {len(blocks)}")


def _check_deformable(stages: Sequence[int], first_level: int, num_stages: int) -> None:
    levels = range(first_level, first_level + num_stages)
    if isinstance(stages, str) or any(stage not in levels for stage in stages):
        raise ValueError(
            f"deformable_stages={stages!r} must be a list of stages by their maps, {levels[0]} (c{levels[0]}) to "
            f"{levels[-1]} (c{levels[-1]})"
        )


resnet = ResNet
resnet18 = partial(resnet, blocks=(2, 2, 2, 2), block="basic")
resnet34 = partial(resnet, blocks=(3, 4, 6, 3), block="basic")
resnet50 = partial(resnet, blocks=(3, 4, 6, 3), block="bottleneck")
resnet101 = partial(resnet, blocks=(3, 4, 23, 3), block="bottleneck")
resnet152 = partial(resnet, blocks=(3, 8, 36, 3), block="bottleneck")
# Aggregated Residual Transformations for Deep Neural Networks (Xie et al., 2017)
resnext50_32x4d = partial(resnet50, groups=32, width_per_group=4)
resnext101_32x8d = partial(resnet101, groups=32, width_per_group=8)
resnext101_64x4d = partial(resnet101, groups=64, width_per_group=4)
# Wide Residual Networks (Zagoruyko and Komodakis, 2016)
wide_resnet50_2 = partial(resnet50, width_per_group=128)
wide_resnet101_2 = partial(resnet101, width_per_group=128)
# Bag of Tricks for Image Classification (He et al., 2019)
resnet18d = partial(resnet18, stem="deep", downsample="pool")
resnet34d = partial(resnet34, stem="deep", downsample="pool")
resnet50d = partial(resnet50, stem="deep", downsample="pool")
resnet101d = partial(resnet101, stem="deep", downsample="pool")
resnet152d = partial(resnet152, stem="deep", downsample="pool")
