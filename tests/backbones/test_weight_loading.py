"""Weights of other layouts load completely, reports say what did not match, and other networks are refused."""

import warnings

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

import backbones
from backbones.loading import adapt_input, load_weights, read_weights


@pytest.fixture(scope="module")
def resnet50():
    return dict(backbones.create("resnet50").state_dict())


def nudged(extractor):
    """The state dict of `extractor` with every floating value changed."""
    return {
        k: v + 0.5 if v.is_floating_point() else v for k, v in extractor.state_dict().items()
    }  # fmt: skip


def assert_loaded(extractor, state):
    for key, value in extractor.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "encoder.", "backbone.", "backbone.body.", "model.backbone.backbone."],
)
def test_prefixes(prefix):
    extractor = backbones.create("cifar_resnet20")
    state = nudged(extractor)
    report = load_weights(extractor, {prefix + key: value for key, value in state.items()})
    assert (report.missing, report.left_over, report.reshaped) == ([], [], {})
    assert_loaded(extractor, state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net"])
def test_wrapped_files(wrapper, tmp_path):
    state = nudged(backbones.create("cifar_resnet20"))
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "x.pth")
    assert_loaded(backbones.create("cifar_resnet20", pretrained=str(tmp_path / "x.pth")), state)
    save_file(state, tmp_path / "x.safetensors")
    assert_loaded(backbones.create("cifar_resnet20", pretrained=str(tmp_path / "x.safetensors")), state)


def public_cifar_state(depth, shortcut="A"):
    """Tensors of `depth` layers under the names that are common for CIFAR weights."""
    own = nudged(backbones.create(f"cifar_resnet{depth}", shortcut=shortcut))
    renamed = {f"module.{k.replace('downsample', 'shortcut')}": v for k, v in own.items()}
    head = {"module.linear.weight": torch.zeros(10, 64), "module.linear.bias": torch.zeros(10)}
    return own, renamed | head


@pytest.mark.parametrize(("depth", "shortcut"), [(20, "A"), (20, "B"), (56, "A")])
def test_cifar_weights_in_the_public_layout(depth, shortcut, tmp_path):
    own, public = public_cifar_state(depth, shortcut)
    assert {"module.conv1.weight", "module.layer1.0.conv1.weight", "module.linear.weight"} <= set(public)
    torch.save({"state_dict": public, "best_prec1": 91.7}, tmp_path / "resnet.th")
    extractor = backbones.create(f"cifar_resnet{depth}", shortcut=shortcut)
    report = load_weights(extractor, read_weights(tmp_path / "resnet.th"))
    assert len(report.matched) == len([k for k in own if not k.endswith("num_batches_tracked")])
    assert report.missing == []
    assert report.reshaped == {}
    assert report.left_over == ["linear.weight", "linear.bias"]
    assert_loaded(extractor, own)


def detectron2_name(key):
    """The name of our tensor `key` in detectron2, as its C2 converter writes them."""
    parts = key.split(".")
    if parts[0] in ("conv1", "bn1"):
        return "stem.conv1." + ("norm." if parts[0] == "bn1" else "") + parts[1]
    stage = f"res{int(parts[0].removeprefix('layer')) + 1}.{parts[1]}."
    if parts[2] == "downsample":
        return stage + "shortcut." + ("norm." if parts[3] == "1" else "") + parts[4]
    number = parts[2][-1]
    return stage + f"conv{number}." + ("norm." if parts[2].startswith("bn") else "") + parts[3]


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
def test_detectron2_names(resnet50, prefix):
    tensors = {k: v for k, v in resnet50.items() if not k.endswith("num_batches_tracked")}
    foreign = {prefix + detectron2_name(key): value for key, value in tensors.items()}
    assert f"{prefix}res2.0.shortcut.norm.running_mean" in foreign
    extractor = backbones.create("resnet50", norm="frozen", stride_in_1x1=True)
    head = {"proposal_generator.rpn_head.conv.weight": torch.zeros(1)} if prefix else {}
    report = load_weights(extractor, foreign | head)
    assert (report.missing, report.reshaped) == ([], {})
    assert report.left_over == list(head)
    assert_loaded(extractor, tensors)


@pytest.mark.parametrize("name", ["resnet18", "resnet18d", "vgg11_bn"])
def test_timm_names(name):
    with torch.device("meta"):
        reference = timm.create_model(name, num_classes=2)
    state = {  # without VGG's hidden layers, which are large
        k: torch.rand(v.shape) for k, v in reference.state_dict().items() if not k.startswith("pre_logits")
    }
    extractor = backbones.create(name)
    report = load_weights(extractor, state)
    assert (report.missing, report.reshaped) == ([], {})
    assert {key.partition(".")[0] for key in report.left_over} <= {"fc", "head"}
    assert_loaded(extractor, state)


def test_weights_of_a_detector_of_torchvision():
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2
    )
    extractor = backbones.create("resnet50", norm="frozen")
    report = load_weights(extractor, detector.state_dict())
    assert (report.missing, report.reshaped) == ([], {})
    assert {key.partition(".")[0] for key in report.left_over} == {"backbone", "rpn", "roi_heads"}  # its FPN
    assert_loaded(extractor, {k.removeprefix("backbone.body."): v for k, v in detector.state_dict().items()})


def test_report_counts_all_that_did_not_match():
    extractor = backbones.create("cifar_resnet20")
    state = nudged(extractor)
    del state["layer3.2.bn2.bias"]
    state["layer3.2.bn2.weight"] = torch.ones(3)
    state["layer3.3.bn9.weight"] = torch.ones(3)
    state["fc.weight"] = torch.ones(10, 64)
    before = extractor.state_dict()["layer3.2.bn2.weight"].clone()
    with pytest.warns(UserWarning, match="weights match in part") as caught:
        report = load_weights(extractor, state)
    assert report.missing == ["layer3.2.bn2.bias"]
    assert report.left_over == ["layer3.3.bn9.weight", "fc.weight"]
    assert report.reshaped == {"layer3.2.bn2.weight": ((64,), (3,))}
    assert len(report.matched) == 19 * 5 - 2
    assert str(report) == (
        "93 tensors match; 1 not in the weights (layer3.2.bn2.bias); 2 left over (layer3.3.bn9.weight, "
        "fc.weight); layer3.2.bn2.weight is (64,) here and (3,) in the weights"
    )
    assert str(report) in str(caught[0].message)
    assert torch.equal(extractor.state_dict()["layer3.2.bn2.weight"], before)
    assert torch.equal(extractor.state_dict()["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("resnet101", "resnet50"),
        ("resnet50", "resnet101"),
        ("resnet101", "resnet152"),
        ("resnet18", "resnet50"),
        ("resnet34", "resnet50"),
        ("resnet50", "resnext50_32x4d"),
        ("resnet50", "vgg16"),
        ("vgg16", "vgg16_bn"),
        ("cifar_resnet20", "resnet18"),
    ],
)
def test_weights_of_another_architecture_are_refused(ours, theirs):
    with torch.device("meta"):
        other = backbones.create(theirs).state_dict()
        extractor = backbones.create(ours)
    state = {key: torch.zeros(()).expand(value.shape) for key, value in other.items()}
    with pytest.raises(ValueError, match="these weights belong to another network .* build the backbone"):
        load_weights(extractor, state)


def test_nothing_is_loaded_when_weights_are_refused():
    extractor = backbones.create("cifar_resnet20")
    before = {key: value.clone() for key, value in extractor.state_dict().items()}
    with pytest.raises(ValueError, match="another network"):
        load_weights(extractor, {"conv1.weight": torch.zeros(16, 3, 3, 3), "fc.weight": torch.zeros(1)})
    assert_loaded(extractor, before)


def test_first_convolution_adapts_to_the_channels():
    weight = torch.rand(4, 3, 7, 7)
    grey, colours = torch.rand(1, 1, 9, 9), torch.rand(1, 3, 9, 9)
    conv = torch.nn.functional.conv2d
    # one channel: what the network would see of a grey image given as three equal colours
    torch.testing.assert_close(conv(grey, adapt_input(weight, 1)), conv(grey.expand(-1, 3, -1, -1), weight))
    # six: what it would see of the mean of two images
    twice = torch.cat([colours, colours.flip(3)], dim=1)
    mean = (colours + colours.flip(3)) / 2
    torch.testing.assert_close(conv(twice, adapt_input(weight, 6)), conv(mean, weight))
    torch.testing.assert_close(adapt_input(weight, 4)[:, 3], weight[:, 0] * 3 / 4)
    assert adapt_input(weight, 3) is weight


@pytest.mark.parametrize(
    ("name", "first"), [("cifar_resnet20", "conv1.weight"), ("vgg11", "features.0.weight")]
)
@pytest.mark.parametrize("in_channels", [1, 2, 4, 6])
def test_pretrained_with_other_channels(name, first, in_channels, tmp_path):
    source = nudged(backbones.create(name))
    torch.save(source, tmp_path / "x.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all of it matches
        extractor = backbones.create(name, in_channels=in_channels, pretrained=str(tmp_path / "x.pth"))
    own = extractor.state_dict()
    assert torch.equal(own[first], adapt_input(source[first], in_channels))
    assert_loaded(extractor, source | {first: own[first]})
    assert extractor.feature_info == backbones.create(name).feature_info


def test_pretrained_deep_stem_with_one_channel(tmp_path):
    source = backbones.create("resnet18d").state_dict()
    torch.save(source, tmp_path / "x.pth")
    extractor = backbones.create("resnet18d", in_channels=1, pretrained=str(tmp_path / "x.pth"))
    expected = source["conv1.0.weight"].sum(1, keepdim=True)
    assert torch.equal(extractor.state_dict()["conv1.0.weight"], expected)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pth", None, "there are no weights at .*gone.pth; give the path"),
        ("cut.pth", b"PK\x03\x04 not all of it", "cut.pth holds no weights that can be read as data alone"),
        ("empty.pth", b"", "empty.pth holds no weights"),
        ("text.pth", b"<html>404</html>", "text.pth holds no weights"),
        (
            "cut.safetensors",
            b"\xff\x00\x00\x00\x00\x00\x00\x00{",
            "not a readable .safetensors file .*get it again",
        ),
    ],
)
def test_unreadable_files(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        backbones.create("cifar_resnet20", pretrained=str(tmp_path / name))


class Bomb:
    """What a pickle may run when it is opened as code."""

    def __reduce__(self):
        return print, ("boom",)


@pytest.mark.parametrize("content", [{"state_dict": Bomb()}, {"epoch": 3}, [1, 2]])
def test_files_without_plain_weights(content, tmp_path, capsys):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth holds no weights that can be read as data alone"):
        read_weights(tmp_path / "x.pth")
    assert "boom" not in capsys.readouterr().out
