"""With the same weights, the same numbers as torchvision and timm; parameters as published."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import backbones


def randomize(network):
    """Random weights and statistics of batch norms, at a scale that keeps deep maps near one."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.3, 0.7, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
    return network.eval()


def loaded(name, state, **options):
    extractor = backbones.create(name, **options).eval()
    own = extractor.state_dict()
    left_over = {key for key in state.keys() - own.keys() if not key.endswith("num_batches_tracked")}
    assert all(key.startswith(("fc.", "classifier.")) for key in left_over)
    extractor.load_state_dict({key: value for key, value in state.items() if key in own})  # strict
    return extractor


def assert_maps_equal(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for (level, x), y in zip(ours.items(), theirs, strict=True):
        assert x.shape == y.shape, level
        scale = y.abs().max().clamp(min=1)
        assert (x - y).abs().max() <= tolerance * scale, level


def torchvision_resnet_maps(network, images):
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    maps = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


RESNETS = ["resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2"]
LARGE = ["resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"]


@torch.no_grad()
@pytest.mark.parametrize("name", [*RESNETS, *slow(*LARGE)])
def test_resnets_equal_torchvision(name):
    reference = randomize(torchvision.models.get_model(name, weights=None))
    extractor = loaded(name, dict(reference.state_dict()))
    images = torch.randn(1, 3, 65, 97)
    assert_maps_equal(extractor(images), torchvision_resnet_maps(reference, images), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_frozen_norms_equal_torchvision(name):
    reference = randomize(torchvision.models.get_model(name, weights=None))
    extractor = loaded(name, dict(reference.state_dict()), norm="frozen")
    images = torch.randn(1, 3, 65, 97)
    assert_maps_equal(extractor(images), torchvision_resnet_maps(reference, images), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_equals_torchvision(output_stride):
    dilate = [False, output_stride == 8, True]
    reference = randomize(torchvision.models.resnet50(weights=None, replace_stride_with_dilation=dilate))
    extractor = loaded("resnet50", dict(reference.state_dict()), output_stride=output_stride)
    images = torch.randn(1, 3, 65, 97)
    assert_maps_equal(extractor(images), torchvision_resnet_maps(reference, images), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["vgg16", "vgg11_bn", *slow("vgg11", "vgg13", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn")]
)
def test_vggs_equal_torchvision(name):
    # without the classifier, whose 120 million weights would take most of the time
    state = randomize(getattr(torchvision.models.vgg, name)(weights=None, num_classes=1).features)
    extractor = loaded(name, {f"features.{key}": value for key, value in state.state_dict().items()})
    images = torch.randn(1, 3, 64, 96)
    x, before_pooling = images, []
    for layer in state:
        if isinstance(layer, nn.MaxPool2d):
            before_pooling.append(x)
        x = layer(x)
    assert_maps_equal(extractor(images), [*before_pooling[2:], x], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18d", "resnet50d", *slow("resnet34d", "resnet101d", "resnet152d")])
def test_d_variant_equals_timm(name):
    reference = randomize(timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)))
    extractor = loaded(name, dict(reference.state_dict()))
    images = torch.randn(1, 3, 65, 97)
    assert_maps_equal(extractor(images), reference(images), 1e-4)


@torch.no_grad()
def test_stride_in_1x1_by_hand():
    extractor = randomize(backbones.create("resnet", blocks=[1, 1], widths=[8, 16], stride_in_1x1=True))
    block = extractor.get_submodule("layer2.0")
    assert block.conv1.stride == (2, 2)
    assert block.conv2.stride == (1, 1)
    x = torch.randn(1, 32, 9, 9)
    out = torch.relu(block.bn1(block.conv1(x)))
    out = torch.relu(block.bn2(block.conv2(out)))
    expected = torch.relu(block.bn3(block.conv3(out)) + block.downsample(x))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("name", "total", "head"),
    [
        ("resnet18", 11_689_512, 512), ("resnet34", 21_797_672, 512), ("resnet50", 25_557_032, 2048),
        ("resnet101", 44_549_160, 2048), ("resnet152", 60_192_808, 2048),
        ("resnext50_32x4d", 25_028_904, 2048), ("wide_resnet50_2", 68_883_240, 2048),
    ],
)  # fmt: skip
def test_parameter_counts(name, total, head):
    with torch.device("meta"):
        extractor = backbones.create(name)
    assert sum(p.numel() for p in extractor.parameters()) + head * 1000 + 1000 == total


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_parameter_counts(depth, millions):
    with torch.device("meta"):
        residual = backbones.create(f"cifar_resnet{depth}")
        plain = backbones.create(f"plain_cifar_resnet{depth}")
    count = sum(p.numel() for p in residual.parameters())
    assert (count + 64 * 10 + 10) / 1e6 == pytest.approx(millions, abs=0.04 if depth == 110 else 0.006)
    assert sum(p.numel() for p in plain.parameters()) == count  # option A adds none


def test_initialization_is_torchvisions():
    torch.manual_seed(0)
    ours = backbones.create("resnet18").state_dict()
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    for key, value in ours.items():
        if value.ndim == 4:
            assert float(value.std()) == pytest.approx(float(theirs[key].std()), rel=0.1), key
        elif value.is_floating_point():
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=0)
