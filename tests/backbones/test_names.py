"""Networks of torchvision and timm by their own names, and the pyramid that a transformer gets by itself."""

import pytest
import torch

import backbones
from backbones.pyramids import as_simple
from tasks.cli.commands import help_text
from tasks.harness.auto import with_pyramid
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model


@pytest.mark.parametrize(
    ("name", "kind", "has_weights"),
    [
        ("resnet50", "ResNet", True),  # all three know it: ours
        ("efficientnet_b0", "TorchvisionBackbone", True),  # torchvision and timm
        ("mobilenet_v3_small", "TorchvisionBackbone", True),
        ("vit_tiny_patch16_224", "TimmBackbone", True),
        ("convnext_atto.d2_in1k", "TimmBackbone", True),
        ("cifar_resnet20", "ResNet", False),
    ],
)
def test_names(name: str, kind: str, has_weights: bool) -> None:
    with torch.device("meta"):
        network = backbones.create(name)
        assert (
            type(network).__name__ == kind and network.spec["name"] == backbones.title(network.spec) == name
        )
        assert backbones.build(network.spec).feature_info == network.feature_info
    assert backbones.has_published_weights(name) is has_weights
    assert "in_channels" in backbones.options(name) and "model" not in backbones.options(name)


def test_the_adapters_are_called_by_their_network() -> None:
    assert backbones.title({"name": "timm", "model": "convnext_atto"}) == "convnext_atto"
    assert backbones.title({"name": "resnet18", "norm": "batch"}) == "resnet18"


def test_the_nearest_name_may_be_anybodys() -> None:
    with pytest.raises(
        ValueError, match="no backbone is called 'efficientnet_c0', did you mean 'efficientnet_b0'"
    ):
        backbones.create("efficientnet_c0")
    text = help_text("train", "usage")
    assert (
        "backbone=resnet18" in text and "|plain_resnet18|" in text and "densenet121, efficientnet_b0" in text
    )


def test_pixels_are_those_of_the_weights() -> None:
    assert backbones.expected_pixels("resnet50") == backbones.expected_pixels("efficientnet_b0")
    assert backbones.expected_pixels("vit_tiny_patch16_224")[0] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("model", ["faster_rcnn", "retinanet", "fcos", "semantic_fpn", "mask_rcnn"])
def test_a_transformer_gets_the_pyramid_it_needs(model: str) -> None:
    """In the harness whatever pyramid was usual, and in the builders where none is named."""
    backbone = {"name": "vit_tiny_patch16_224", "model_options": {"depth": 3}}
    usual = {
        "name": "pafpn" if model == "yolox" else "fpn",
        "channels": 32,
        "norm": "batch",
        "levels": ["c3", "c4"],
    }
    spec, (remark,) = with_pyramid({"name": model, "backbone": backbone, "pyramid": usual})
    assert spec["pyramid"] == {"name": "simple", "channels": 32, "levels": ["p3", "p4"]}
    assert remark == (
        "pyramid=simple: vit_tiny_patch16_224 has one map, of stride 16; pyramid.norm means nothing to it"
    )
    assert with_pyramid(spec) == (spec, [])
    with torch.device("meta"):
        built = build_model(
            {"name": model, "backbone": backbone, "pyramid": {"channels": 256}},
            num_classes=3,
            preprocessing=Preprocessing(),
        )
    assert built.backbone.spec["pyramid"]["name"] == "simple"


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_others_keep_theirs(name: str) -> None:
    spec = {"name": "fcos", "backbone": {"name": name}, "pyramid": {"name": "fpn", "norm": "batch"}}
    assert with_pyramid(spec) == (spec, [])
    without = {"name": "deeplabv3", "backbone": {"name": "vit_tiny_patch16_224"}, "pyramid": {"name": "fpn"}}
    assert with_pyramid(without) == (without, [])


def test_options_of_another_pyramid_as_the_simple_ones() -> None:
    options = {"channels": 8, "levels": None, "extra": "conv_c5", "fuse": "sum"}
    assert as_simple(options) == ({"name": "simple", "channels": 8, "levels": None}, ["extra", "fuse"])
    assert as_simple({"extra": "none"}) == ({"name": "simple", "extra": "none"}, [])
