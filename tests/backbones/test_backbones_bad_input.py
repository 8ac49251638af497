"""Every mistake of a user's is answered by one sentence that says what to do."""

import importlib

import pytest
import torch

import backbones

CIFAR = "cifar_resnet20"


def pyramid(*args, **options):
    return backbones.create_pyramid(backbones.create(CIFAR), *args, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5", {}, r"'resnet5', did you mean 'resnet50'.*available\(\)"),
        ("resnet50", {"nrom": "batch"}, "no option 'nrom', did you mean 'norm'"),
        ("resnet50", {"norm": "bacth"}, "norm='bacth' is unknown; choose one of 'batch'"),
        ("resnet50", {"blocks": (1, 1, 1, 1)}, r"no option 'blocks', which is for others \(resnet …\)"),
        ("resnet", {}, "needs the option 'blocks'"),
        ("resnet", {"blocks": 3}, "blocks=3 must be a list of whole numbers"),
        ("resnet", {"blocks": (2, 0, 2, 2)}, r"blocks=\(2, 0, 2, 2\) must be a list of whole numbers"),
        ("resnet", {"blocks": (2, 2)}, "give one width for each stage"),
        ("resnet", {"blocks": (1, 1), "widths": (8, 8), "width_per_group": 4}, "no channels left"),
        (
            "resnet",
            {"blocks": (1, 1), "widths": (64, 32), "block": "basic", "shortcut": "A"},
            "narrows from 64 to 32 channels; choose shortcut='B'",
        ),
        ("resnet18", {"shortcut": "D"}, "shortcut='D' is unknown; choose one of 'A', 'B', 'C', 'none'"),
        ("resnet18", {"stem": "5x5"}, "stem='5x5' is unknown; choose one of '7x7', 'deep', '3x3'"),
        ("resnet18", {"in_channels": 0}, "in_channels=0 must be a whole number of at least 1"),
        ("vgg16", {"in_channels": 0}, "in_channels=0 must be a whole number of at least 1"),
        (CIFAR, {"in_channels": 0}, "in_channels=0 must be a whole number of at least 1"),
        ("timm", {"model": "resnet18", "in_channels": 0}, "in_channels=0 must be a whole number"),
        ("torchvision", {"model": "resnet18", "in_channels": 0}, "in_channels=0 must be a whole number"),
        (
            "vgg16",
            {"output_stride": 8},
            "vgg16 has no option 'output_stride', which is for others .*; it takes",
        ),
        ("vgg16", {"output_stride": 8, "pretrained": True}, "vgg16 has no option 'output_stride'"),
        ("resnet18", {"output_stride": 4}, "output_stride=4 is unknown"),
        ("resnet18", {"stride_in_1x1": True}, "choose block='bottleneck'"),
        ("resnet18", {"frozen_stages": 5}, r"0 \(the stem\) to 4"),
        ("resnet18", {"frozen_stages": True}, "frozen_stages=True must be a whole number or null"),
        ("resnet18", {"checkpoint_stages": [5]}, "must name stages 1 to 4"),
        ("resnet18", {"checkpoint_stages": 1}, "checkpoint_stages=1 must be a list"),
        ("plain_resnet18", {"zero_init_residual": True}, "leave one of the two out"),
        ("cifar_resnet", {"depth": 21}, "depth=21 must be 6n"),
        ("vgg", {"convolutions": (1, 1)}, "five numbers"),
        ("timm", {"model": "resnet5"}, "no model 'resnet5', did you mean 'resnet50'"),
        ("timm", {"model": "vit_small_patch14_dinov2"}, "powers of two"),
        (
            "timm",
            {"model": "resnet18", "model_options": {"in_chans": 1}},
            "model_options must not hold in_chans",
        ),
        ("timm", {"model": "vit_tiny_patch16_224", "frozen_stages": 9}, "frozen_stages=9"),
        ("torchvision", {"model": "densenet12"}, "did you mean 'densenet121'"),
        ("torchvision", {"model": "alexnet"}, "no chain of modules"),
        # options with which published weights would compute something else
        ("resnet50", {"shortcut": "A", "pretrained": True}, "shortcut='A' does not go with .* shortcut='B'"),
        (
            "resnet50",
            {"stride_in_1x1": True, "pretrained": "IMAGENET1K_V1"},
            "leave out stride_in_1x1 or pret",
        ),
        ("resnet50", {"downsample": "pool", "pretrained": True}, "downsample='pool' does not go with"),
        ("resnet50", {"norm": "group", "pretrained": True}, "norm='group' does not go with the published"),
        ("vgg16", {"norm": "batch", "pretrained": True}, "which were trained with norm=None; leave out norm"),
        ("resnet50", {"pretrained": "imagenet"}, "'imagenet' is neither a file nor weights of resnet50"),
        ("cifar_resnet20", {"pretrained": True}, "no weights are published for cifar_resnet20; pass"),
    ],
)
def test_networks(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        backbones.create(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pyramid("fnp"), "did you mean 'fpn'"),
        (lambda: pyramid(chanels=9), "mean 'channels'"),
        (lambda: pyramid(channels=0), "channels=0 must be a whole number"),
        (lambda: pyramid(extra="pooled"), "extra='pooled' is unknown; choose one of 'none', 'pool'"),
        (lambda: pyramid(fuse="max"), "fuse='max' is unknown"),
        (lambda: pyramid(levels=["c5"]), "one or more of c0"),
        (lambda: pyramid("simple"), "last map of stride 16"),
        (lambda: backbones.options("resnet5"), "no backbone is called 'resnet5', did you mean 'resnet50'"),
        (lambda: backbones.build({}), "has no name; give that of an extractor"),
    ],
)
def test_pyramids_and_descriptions(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "options", "images", "message"),
    [
        (CIFAR, {}, torch.zeros(1, 1, 32, 32), r"takes \(batch, 3, height"),
        (CIFAR, {}, torch.zeros(1, 3, 3, 32), "3x32 pixels are smaller than .* stride, 4; enlarge or pad"),
        (CIFAR, {}, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "images are uint8, .* normalised floats"),
        ("resnet18", {}, torch.zeros(3, 64, 64), "stack the images"),
        ("resnet18", {}, torch.zeros(1, 3, 31, 64), "pad them to at least 32x32"),
        ("resnet18", {"output_stride": 8}, torch.zeros(1, 3, 7, 7), "pad them to at least 8x8"),
        ("vgg11", {}, torch.zeros(1, 3, 64, 31), "pad them to at least 32x32"),
        ("timm", {"model": "resnet10t"}, torch.zeros(1, 3, 31, 64), "pad them to at least 32x32"),
        (
            "torchvision",
            {"model": "mobilenet_v3_small"},
            torch.zeros(1, 3, 9, 9),
            "pad them to at least 32x32",
        ),
    ],
)
def test_images(name, options, images, message):
    extractor = backbones.create(name, **options)
    with pytest.raises(ValueError, match=message):
        extractor(images)
    if name != "vgg11":
        with pytest.raises(ValueError, match=message):
            backbones.with_fpn(extractor, channels=8)(images)


def test_a_setting_without_effect_is_warned_of(monkeypatch):
    asked = []
    module = importlib.import_module("backbones.create")  # `backbones.create` is the function
    monkeypatch.setattr(module, "load_pretrained", lambda *args: asked.append(args[1:]))
    with pytest.warns(UserWarning, match="zero_init_residual has no effect"):
        backbones.create("resnet18", zero_init_residual=True, pretrained=True)
    # what weights do bear: other channels, dilation, frozen norms and stages, a path whatever the options
    backbones.create("resnet18", in_channels=1, norm="frozen", frozen_stages=1, pretrained=True)
    backbones.create("resnet50", output_stride=8, pretrained="IMAGENET1K_V2")
    backbones.create("resnet50", stride_in_1x1=True, pretrained="msra.pth")
    assert [tag for _, tag in asked] == [True, True, "IMAGENET1K_V2", "msra.pth"]
