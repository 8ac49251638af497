"""The backbone comes out of model files and checkpoints with its weights, and other files are told apart."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

import backbones
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import METADATA_KEY, Header, save_model
from tasks.zoo.registry import build_model, resolved_spec

CLASSIFIER = {"name": "classifier", "backbone": {"name": "cifar_resnet20", "frozen_stages": 1}}
DETECTOR = {
    "name": "faster_rcnn",
    "backbone": {"name": "resnet", "blocks": [1, 1, 1, 1], "block": "basic", "widths": [8, 8, 16, 16]},
    "pyramid": {"name": "fpn", "channels": 8},
}


def written(folder, kind, task, spec):
    """A model of `spec` and the path of its model file or checkpoint."""
    preprocessing = Preprocessing()
    model = build_model(spec, num_classes=2, preprocessing=preprocessing)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25)
    header = Header(
        task=task, model=resolved_spec(spec, model), class_names=["a", "b"], category_ids=[1, 2],
        preprocessing=asdict(preprocessing),
    )  # fmt: skip
    path = folder / f"x{kind}"
    if kind == ".safetensors":
        save_model(path, model, header)
    else:
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        torch.save({"state_dict": state, METADATA_KEY: asdict(header), "epoch": 1}, path)
    return model, path


def assert_same(extractor, expected):
    assert extractor.spec == expected.spec
    assert extractor.feature_info == expected.feature_info
    ours, theirs = extractor.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("kind", [".safetensors", ".ckpt"])
def test_backbone_of_a_classifier(kind, tmp_path):
    model, path = written(tmp_path, kind, "classification", CLASSIFIER)
    extractor = backbones.load_backbone(path)
    assert_same(extractor, model.backbone)
    assert extractor.training
    assert not extractor.get_submodule("layer1").training  # the freezing is part of the description
    assert list(extractor(torch.zeros(1, 3, 32, 32))) == ["c0", "c1", "c2"]


@pytest.mark.parametrize("kind", [".safetensors", ".ckpt"])
def test_backbone_of_a_detector_with_and_without_its_pyramid(kind, tmp_path):
    model, path = written(tmp_path, kind, "detection", DETECTOR)
    assert_same(backbones.load_backbone(str(path)), model.backbone)
    assert_same(backbones.load_backbone(path, pyramid=False), model.backbone.backbone)


@pytest.mark.parametrize("kind", [".safetensors", ".ckpt"])
def test_our_files_serve_as_pretrained_weights(kind, tmp_path):
    model, path = written(tmp_path, kind, "detection", DETECTOR)
    extractor = backbones.create(**DETECTOR["backbone"], pretrained=str(path))
    assert_same(extractor, model.backbone.backbone)


def safetensors_with(path, header):
    metadata = (
        {} if header is None else {METADATA_KEY: header if isinstance(header, str) else json.dumps(header)}
    )
    save_file({"backbone.x": torch.zeros(1)}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "not a model file or checkpoint of this project .* pretrained=path"),
        ("{", "not a readable model file .* copy or write it again"),
        ([1], "not a model file or checkpoint of this project"),
        ({"model": {"name": "x"}}, "describes no backbone"),
        (
            {"format_version": 2, "model": {"backbone": {"name": "resnet18"}}},
            "has format version 2, and this package reads 1; install",
        ),
        ({"format_version": 1, "model": {"backbone": {}}}, "refused: .*has no name"),
        (
            {"format_version": 1, "model": {"backbone": {"name": "os.system"}}},
            "refused: no backbone is called 'os.system'",
        ),
        (
            {"format_version": 1, "model": {"backbone": {"name": "cifar_resnet20"}}},
            "weights are not those of the model its header describes .*missing.*bn1",
        ),
        (
            {
                "format_version": 1,
                "model": {
                    "backbone": {
                        "name": "timm", "model": "resnet18", "model_options": {"checkpoint_path": "x.pth"}
                    }
                },
            },
            "model_options must not hold checkpoint_path",
        ),
    ],
)  # fmt: skip
def test_bad_model_files(header, message, tmp_path):
    safetensors_with(tmp_path / "x.safetensors", header)
    with pytest.raises(ValueError, match=message):
        backbones.load_backbone(tmp_path / "x.safetensors")


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file at .*gone.ckpt; give a model file"):
        backbones.load_backbone(tmp_path / "gone.ckpt")
    _, path = written(tmp_path, ".safetensors", "classification", CLASSIFIER)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable model file"):
        backbones.load_backbone(path)
    (tmp_path / "x.ckpt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="not a checkpoint that can be read as data alone"):
        backbones.load_backbone(tmp_path / "x.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds a list, not a checkpoint"):
        backbones.load_backbone(tmp_path / "list.ckpt")


@pytest.mark.parametrize("name", ["bare.pth", "bare.ckpt", "bare.safetensors"])
def test_a_bare_state_dict_names_no_architecture_and_the_error_says_how_to_load_it(name, tmp_path):
    extractor, path = backbones.create("cifar_resnet20"), tmp_path / name
    save = save_file if path.suffix == ".safetensors" else torch.save
    save(extractor.state_dict(), path)
    with pytest.raises(ValueError, match=r"use backbones.create\(name, pretrained=path\)"):
        backbones.load_backbone(path)
    assert_same(backbones.create("cifar_resnet20", pretrained=str(path)), extractor)
