"""Every backbone keeps the contract: keys, channels, strides, gradients, state dict, description."""

import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import backbones
from backbones.create import BUILDERS

META = torch.device("meta")  # shapes and gradients of the biggest networks, without their arithmetic
ROOT = Path(__file__).parents[2]
NAMES = backbones.available()
SLOW = re.compile("101|152|110|1202|plain_.*(50|44|56)")


def check_shapes(extractor, height, width):
    maps = extractor(torch.zeros(2, extractor.in_channels, height, width, device=META))
    assert list(maps) == list(extractor.feature_info)
    for level, info in extractor.feature_info.items():
        expected = (2, info.channels, math.ceil(height / info.stride), math.ceil(width / info.stride))
        assert tuple(maps[level].shape) == expected, level
    return maps


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if SLOW.search(n) else n for n in NAMES],
)
def test_contract(name):
    with META:
        extractor = backbones.create(name)
    for height, width in ((64, 64), (65, 97), (127, 33)):
        maps = check_shapes(extractor, height, width)
    for level, info in extractor.feature_info.items():
        assert info.stride == 2 ** int(level[1:])
    sum(x.sum() for x in maps.values()).backward()
    assert [key for key, p in extractor.named_parameters() if p.grad is None] == []
    spec = json.loads(json.dumps(extractor.spec))
    assert spec == extractor.spec
    assert spec["name"] == name
    with META:
        again = backbones.build(spec)
    assert again.spec == spec
    again.load_state_dict(extractor.state_dict(), assign=True)  # strict: every name and every shape


def test_available_lists_what_needs_no_options():
    assert set(BUILDERS) - set(backbones.available()) == {
        "resnet", "cifar_resnet", "vgg", "timm", "torchvision",
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["batch", "frozen", "sync", "group"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "cifar_resnet20", "vgg11", "plain_resnet18"])
def test_norms(name, norm):
    with META:
        extractor = backbones.create(name, norm=norm)
        pyramid = backbones.with_fpn(extractor, channels=32, norm=norm)
    maps = check_shapes(extractor, 65, 97)
    sum(x.sum() for x in maps.values()).backward()
    assert [key for key, p in extractor.named_parameters() if p.grad is None] == []
    check_shapes(pyramid, 65, 97)


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 8},
        {"output_stride": 16, "shortcut": "A"},
        {"shortcut": "A", "stem": "deep"},
        {"shortcut": "A", "downsample": "pool"},
        {"shortcut": "C", "downsample": "pool"},
        {"shortcut": "none"},
        {"stem": "3x3"},
        {"in_channels": 5, "stem": "deep"},
        {"checkpoint_stages": [1, 4]},
        {"frozen_stages": 4},
        {"widths": [16, 32], "blocks": [1, 2]},
        {"block": "basic", "output_stride": 8},
        {"stride_in_1x1": True, "zero_init_residual": True},
        {"deformable_stages": [2, 5], "output_stride": 16, "groups": 2, "checkpoint_stages": [4]},
        {"deformable_stages": [3], "block": "basic"},
        {"deformable_stages": [0, 1], "stem": "3x3", "shortcut": "none"},
    ],
)
def test_resnet_options(options):
    options = {"blocks": [2, 1, 1, 1]} | options
    if len(options["blocks"]) == 2:
        extractor = backbones.create("resnet", **options)
    else:
        options.setdefault("widths", [8, 16, 24, 32])
        extractor = backbones.create("resnet", **options)
    for height, width in ((64, 64), (51, 77)):
        with torch.no_grad():
            maps = extractor(torch.randn(1, extractor.in_channels, height, width))
        for level, info in extractor.feature_info.items():
            stride = min(info.stride, options.get("output_stride", 32))
            assert info.stride == stride
            assert maps[level].shape[1:] == (
                info.channels, math.ceil(height / stride), math.ceil(width / stride),
            )  # fmt: skip
    again = backbones.build(json.loads(json.dumps(extractor.spec)))
    again.load_state_dict(extractor.state_dict())
    images = torch.randn(1, extractor.in_channels, 64, 64)
    for level, x in extractor.eval()(images).items():
        torch.testing.assert_close(again.eval()(images)[level], x, rtol=0, atol=0)


def test_option_c_projects_everywhere_and_option_a_has_no_parameters():
    def shortcuts(option):
        names = dict(backbones.create("resnet18", shortcut=option).named_modules())
        return sum(name.endswith("downsample.0") for name in names)

    assert [shortcuts(option) for option in ("B", "C", "A", "none")] == [3, 8, 0, 0]


def test_zero_init_starts_blocks_as_the_identity():
    extractor = backbones.create("cifar_resnet20", zero_init_residual=True).eval()
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(extractor.get_submodule("layer1")(x), x, rtol=0, atol=0)


def test_builder_functions_equal_create():
    by_function, by_name = backbones.resnet18(norm="group"), backbones.create("resnet18", norm="group")
    assert by_function.state_dict().keys() == by_name.state_dict().keys()
    spec = by_function.spec  # the function knows no short name, but all that it stands for
    assert spec["name"] == "resnet"
    assert spec["blocks"] == [2, 2, 2, 2]
    assert backbones.build(spec).state_dict().keys() == by_name.state_dict().keys()


def test_builders_that_need_options():
    extractor = backbones.resnet(blocks=(1, 2, 1, 1), block="bottleneck")
    assert backbones.build(extractor.spec).state_dict().keys() == extractor.state_dict().keys()
    assert isinstance(backbones.vgg(convolutions=(1, 1, 1, 1, 1)), backbones.VGG)
    assert backbones.vgg11_bn(norm="frozen").spec["norm"] == "frozen"


def test_options_lists_what_create_takes():
    for name in ("resnet18", "resnet50d", "plain_resnet18", "cifar_resnet20", "vgg11", "vgg11_bn"):
        taken = backbones.options(name)
        assert taken.pop("pretrained") is False
        with META:
            assert backbones.create(name, **taken).spec.keys() - {"name"} == taken.keys()
        assert "blocks" not in taken  # what the name stands for
    assert backbones.options("resnet")["blocks"] is inspect.Parameter.empty
    assert backbones.options("fpn") == {
        "channels": 256, "levels": None, "norm": None, "extra": "pool", "fuse": "sum",
    }  # fmt: skip


def test_spec_of_a_pyramid():
    extractor = backbones.with_fpn(backbones.create("resnet18"), channels=32)
    assert extractor.spec == {
        "backbone": backbones.create("resnet18").spec,
        "pyramid": {
            "name": "fpn", "channels": 32, "levels": None, "norm": None, "extra": "pool", "fuse": "sum",
        },
    }  # fmt: skip
    again = backbones.build(json.loads(json.dumps(extractor.spec)))
    assert again.state_dict().keys() == extractor.state_dict().keys()
    assert again.feature_info == extractor.feature_info


def test_own_extractor_works_with_a_pyramid():
    class Tiny(backbones.FeatureExtractor):
        def __init__(self):
            super().__init__()
            self.in_channels = 3
            self.feature_info = {"c2": backbones.FeatureInfo(4, 4), "c3": backbones.FeatureInfo(6, 8)}
            self.first = torch.nn.Conv2d(3, 4, 4, 4)
            self.second = torch.nn.Conv2d(4, 6, 2, 2)

        def forward(self, images):
            c2 = self.first(images)
            return {"c2": c2, "c3": self.second(c2)}

    pyramid = backbones.with_fpn(Tiny(), channels=8)
    assert list(pyramid(torch.zeros(1, 3, 32, 32))) == ["p2", "p3", "p4"]
    with pytest.raises(ValueError, match="cannot describe itself"):
        _ = pyramid.spec


def test_importing_backbones_loads_nothing_else():
    code = (
        "import sys, backbones\n"
        "backbones.with_fpn(backbones.create('resnet18'))\n"
        "print([m for m in ('lightning', 'pytorch_lightning', 'hydra', 'timm', 'albumentations', 'tasks')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
