"""Pyramids equal torchvision's FPN and references written out by hand."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

import backbones
from backbones import FPN, PAFPN, FeatureInfo, SimplePyramid

INFO = {f"c{n}": FeatureInfo(4 * n, 2**n) for n in (2, 3, 4, 5)}


def features(height=65, width=97, batch=1):
    return {
        level: torch.randn(batch, info.channels, -(-height // info.stride), -(-width // info.stride))
        for level, info in INFO.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("extra", ["none", "pool", "conv_c5", "conv_p5"])
def test_fpn_equals_torchvision(norm, extra):
    # torchvision convolves p5 instead of c5 exactly where their channels are equal
    channels = INFO["c5"].channels if extra == "conv_p5" else 16
    blocks = {
        "none": None,
        "pool": LastLevelMaxPool(),
        "conv_c5": LastLevelP6P7(INFO["c5"].channels, channels),
        "conv_p5": LastLevelP6P7(channels, channels),
    }
    reference = FeaturePyramidNetwork(
        [info.channels for info in INFO.values()],
        channels,
        extra_blocks=blocks[extra],
        norm_layer=nn.BatchNorm2d if norm else None,
    )
    pyramid = FPN(INFO, channels=channels, norm=norm, extra=extra)
    pyramid.load_state_dict(reference.state_dict())
    maps = features(batch=2)
    ours, theirs = pyramid(maps), reference(OrderedDict(maps))
    assert list(ours) == list(pyramid.feature_info)
    for x, y in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)


def test_initialization():
    pyramid = FPN(INFO, channels=64)
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.abs().max() <= (3 / fan_in) ** 0.5 + 1e-6  # kaiming_uniform, a=1
            assert module.bias.abs().max() == 0
    assert all(m.bias is None for m in FPN(INFO, norm="batch").modules() if isinstance(m, nn.Conv2d))


@torch.no_grad()
def test_average_halves_at_each_step():
    total, average = FPN(INFO, channels=8, extra="none"), FPN(INFO, channels=8, extra="none", fuse="average")
    average.load_state_dict(total.state_dict())
    maps = features()
    laterals = [block(x) for block, x in zip(total.inner_blocks, maps.values(), strict=True)]
    merged = laterals[3]
    for lateral in laterals[2::-1]:
        merged = (lateral + F.interpolate(merged, size=lateral.shape[-2:])) / 2
    torch.testing.assert_close(average(maps)["p2"], total.layer_blocks[0](merged))


@torch.no_grad()
@pytest.mark.parametrize("norm", [None, "batch"])
def test_pafpn_equals_the_papers_figure(norm):
    pyramid = PAFPN(INFO, channels=8, norm=norm)
    maps = features(batch=2)
    fpn = FPN(INFO, channels=8, norm=norm, extra="none")
    fpn.load_state_dict(pyramid.state_dict(), strict=False)

    def convolve(sequence, x):
        """Convolution, norm if any, ReLU: the figure's conv."""
        x = F.conv2d(x, sequence[0].weight, sequence[0].bias, sequence[0].stride, padding=1)
        if norm:
            x = F.batch_norm(x, None, None, sequence[1].weight, sequence[1].bias, training=True)
        return torch.relu(x)

    p2, p3, p4, p5 = fpn(maps).values()
    n2 = p2
    n3 = convolve(pyramid.out_blocks[0], p3 + convolve(pyramid.down_blocks[0], n2))
    n4 = convolve(pyramid.out_blocks[1], p4 + convolve(pyramid.down_blocks[1], n3))
    n5 = convolve(pyramid.out_blocks[2], p5 + convolve(pyramid.down_blocks[2], n4))
    ours = pyramid(maps)
    assert list(ours) == ["p2", "p3", "p4", "p5", "p6"]
    for x, y in zip(ours.values(), (n2, n3, n4, n5, n5[:, :, ::2, ::2]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_levels_and_extra_levels_name_themselves():
    pyramid = FPN(INFO, channels=8, levels=["c4", "c3", "c5"], extra="conv_c5")
    assert {k: v.stride for k, v in pyramid.feature_info.items()} == {
        "p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128,
    }  # fmt: skip
    maps = pyramid(features(128, 256))
    assert [tuple(x.shape[-2:]) for x in maps.values()] == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]


@pytest.mark.parametrize("name", ["fpn", "pafpn"])
def test_pyramid_on_a_dilated_backbone(name):
    backbone = backbones.create("resnet", blocks=[1, 1, 1, 1], block="basic", output_stride=8)
    pyramid = backbones.create_pyramid(backbone, name, channels=8)
    assert [info.stride for info in pyramid.feature_info.values()] == [4, 8, 8, 8, 16]
    maps = pyramid(torch.randn(1, 3, 65, 97))
    for level, info in pyramid.feature_info.items():
        assert tuple(maps[level].shape[-2:]) == (-(-65 // info.stride), -(-97 // info.stride))


@pytest.mark.parametrize("size", [(64, 64), (70, 101)])
def test_simple_pyramid_on_a_vision_transformer(size):
    backbone = backbones.create("timm", model="vit_tiny_patch16_224", model_options={"depth": 4})
    assert backbone.feature_info == {"c4": FeatureInfo(192, 16)}
    pyramid = backbones.create_pyramid(backbone, "simple", channels=16)
    maps = pyramid(torch.randn(1, 3, *size))
    for level, info in pyramid.feature_info.items():
        assert tuple(maps[level].shape) == (1, 16, -(-size[0] // info.stride), -(-size[1] // info.stride))
    sum(x.sum() for x in maps.values()).backward()
    assert [key for key, p in pyramid.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_simple_pyramid_by_hand():
    pyramid = SimplePyramid({"c4": FeatureInfo(8, 16)}, channels=4, extra="none")
    x = torch.randn(1, 8, 6, 6)
    reduce, norm1, smooth, norm2 = list(pyramid.blocks["p5"])[1:]

    def normalize(layer, y):
        mean, var = y.mean(1, keepdim=True), y.var(1, unbiased=False, keepdim=True)
        return (y - mean) / (var + 1e-6).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]

    expected = F.max_pool2d(x, 2)
    expected = normalize(norm1, F.conv2d(expected, reduce.weight))
    expected = normalize(norm2, F.conv2d(expected, smooth.weight, padding=1))
    torch.testing.assert_close(pyramid({"c4": x})["p5"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", ["conv_c5", "conv_p5"])
@pytest.mark.parametrize("width", [32, 64])
def test_gradients_of_narrow_images_in_bf16_are_of_memory_that_was_written(extra, width):
    """With maps of width 1 torch's kernel leaves the gradient as the memory was: here full of what is no number."""
    torch.manual_seed(0)
    fpn = FPN(INFO, channels=16, extra=extra)
    for _ in range(4):
        maps = features(height=96, width=width, batch=2)
        found = []
        for dtype in (torch.bfloat16, torch.float32):
            fpn.zero_grad()
            spoilt = [torch.full((2**k,), float("nan"), dtype=dtype) for k in range(6, 20)]
            del spoilt
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                levels = fpn(maps)
            assert levels["p7"].shape[-2:] == (1, 1)
            sum((x.float() ** 2).sum() for x in levels.values()).backward()
            extras = fpn.extra_blocks.named_parameters()
            found.append({name: p.grad.clone() for name, p in extras if p.grad is not None})
        for name, exact in found[1].items():
            scale = float(exact.abs().max())
            torch.testing.assert_close(found[0][name], exact, rtol=0.05, atol=0.05 * scale)
