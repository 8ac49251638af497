"""Published weights, last layer and preprocessing included, scored on a folder of pictures."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images

import backbones
from tasks.classification.published import (
    category_names,
    find_entry,
    find_rows,
    published_classifier,
    recorded_preprocessing,
)
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.preprocessing import Preprocessing

CATEGORIES = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
V1_FILE = "resnet18-f37072fd.pth"  # as published, so that its preprocessing is known
OTHER = Preprocessing(short_side=64, center_crop=48)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A ResNet-18 of torchvision, of 1,000 classes that says something else of each picture."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    torch.nn.init.normal_(model.fc.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def weights(network: torch.nn.Module, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / V1_FILE
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs in folders called by three of ImageNet's classes, in another order than the weights have."""
    photographs = load_sample_images().images
    for name, pictures in {"tench": photographs[:1], "daisy": photographs[1:], "hen": photographs}.items():
        place = tmp_path / "val" / name
        place.mkdir(parents=True)
        for i, pixels in enumerate(pictures):
            Image.fromarray(pixels[: 300 + 40 * i]).save(place / f"{i}.png")
    return tmp_path


def run(*words: object) -> Path:
    config = compose(
        "evaluate", ["task=classification", "precision=32-true", "trainer.accelerator=cpu", *map(str, words)]
    )
    evaluate(config)
    return Path(config.run_dir)


def by_torchvision(network: torch.nn.Module, path: Path) -> torch.Tensor:
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode(), Image.open(path) as image:
        return network(transform(image)[None])[0]


def test_evaluation_says_what_torchvision_says(
    network: torch.nn.Module, weights: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    run(
        "backbone=resnet18",
        f"pretrained={weights}",
        "data=image_folder",
        f"data.root={folder}",
        f"run_dir={out}",
    )
    entries = json.loads((out / "classes.json").read_text())
    names = ["daisy", "hen", "tench"]
    rows = [CATEGORIES.index(name) for name in names]
    hits = 0
    assert [entry["file_name"] for entry in entries] == [
        "daisy/0.png",
        "hen/0.png",
        "hen/1.png",
        "tench/0.png",
    ]
    for entry in entries:
        shares = by_torchvision(network, folder / "val" / entry["file_name"])[rows].softmax(0)
        found = {best["class"]: best["probability"] for best in entry["best"]}
        assert [found[name] for name in names] == pytest.approx(shares.tolist(), rel=1e-3, abs=1e-5)
        hits += names[int(shares.argmax())] == entry["class"]
    assert json.loads((out / "metrics.json").read_text())["top1"] == hits / 4
    assert "top-1 accuracy" in capsys.readouterr().out


def test_folders_of_wordnet_take_the_classes_in_their_order(network: torch.nn.Module, weights: Path) -> None:
    folders = [f"n{10 * i:08d}" for i in range(1000)]
    model = published_classifier({"name": "resnet18", "pretrained": str(weights)}, OTHER, folders)
    assert torch.equal(model.head.weight, network.fc.weight)
    assert model.header.class_names == CATEGORIES
    assert model.header.task == "classification"
    assert not model.training


def test_preprocessing_is_that_of_the_weights(weights: Path) -> None:
    for name in ("resnet50", "resnext101_32x8d", "wide_resnet50_2", "resnet152"):
        for tag, entry in backbones.WEIGHTS[name].items():
            theirs = torchvision.models.get_model_weights(name)[tag].transforms()
            ours = recorded_preprocessing(entry)
            assert (ours.short_side, ours.center_crop) == (theirs.resize_size[0], theirs.crop_size[0])
            assert (list(ours.mean), list(ours.std)) == (theirs.mean, theirs.std)
            assert ours.antialias
    model = published_classifier({"name": "resnet18", "pretrained": str(weights)}, OTHER, ["tench"])
    assert (model.preprocessing.short_side, model.preprocessing.center_crop) == (256, 224)
    assert model.header.preprocessing == model.preprocessing.to_dict()


def test_file_of_another_name_takes_the_preprocessing_that_is_set(
    network: torch.nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(network.state_dict(), path)
    model = published_classifier({"name": "resnet18", "pretrained": str(path)}, OTHER, ["tench"])
    assert model.preprocessing == OTHER


def test_entry_by_tag_by_file_or_the_last() -> None:
    table = backbones.WEIGHTS["resnet50"]
    assert find_entry(table, True) is table["IMAGENET1K_V2"]
    assert find_entry(table, "IMAGENET1K_V1") is table["IMAGENET1K_V1"]
    assert find_entry(table, f"/some/where/{table['IMAGENET1K_V1'].file}") is table["IMAGENET1K_V1"]
    assert find_entry(table, "other.pth") is None
    assert find_entry({}, True) is None


def test_rows_by_name_by_place_or_a_sentence() -> None:
    assert find_rows(["b", "a"], ["a", "b", "c"], 3) == [1, 0]
    assert find_rows(["x", "y"], [], 2) == [0, 1]
    assert find_rows(["x", "y"], ["a", "b"], 2) == [0, 1]
    with pytest.raises(
        ValueError, match="the data has 2 classes and the weights have 3, and 'x' is none of theirs"
    ):
        find_rows(["a", "x"], ["a", "b", "c"], 3)
    with pytest.raises(ValueError, match="tell their class by their place among all"):
        find_rows(["n01440764", "n01443537"], CATEGORIES, 1000)
    with pytest.raises(ValueError, match="what the weights' classes are called is not known"):
        find_rows(["a"], [], 3)
    with pytest.raises(ValueError, match="'x' is none"):
        find_rows(["a", "b", "x"], ["a", "b", "c"], 3)  # as many, but some are known by name


def test_class_names_are_torchvisions() -> None:
    assert category_names("resnet152", 1000) == CATEGORIES
    assert category_names("resnet152", 10) == []
    assert category_names("cifar_resnet20", 1000) == []


def test_weights_of_another_interpolation_are_refused() -> None:
    with pytest.raises(
        ValueError, match="scored on images resized bicubic.*evaluate the network's other weights"
    ):
        recorded_preprocessing(backbones.WEIGHTS["resnet50d"]["ra2_in1k"])


def test_weights_without_a_last_layer_are_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "features.pth"
    torch.save({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}, path)
    with pytest.raises(ValueError, match="have no last layer 'fc' to classify with"):
        published_classifier({"name": "resnet18", "pretrained": str(path)}, OTHER, ["tench"])


def test_backbone_that_is_not_that_of_the_weights(weights: Path) -> None:
    with pytest.raises(ValueError, match="the weights do not fit this classifier"):
        published_classifier({"name": "resnet34", "pretrained": str(weights)}, OTHER, ["tench"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=classification"], "there is no model to score; give checkpoint=FILE.* or published weights"),
        (["task=classification", "pretrained=V9", "backbone=resnet18"], "pretrained='V9' is neither a file nor"),
        (["task=classification", "pretrained=nowhere.pth"], "there are no weights at nowhere.pth"),
        (["pretrained=true"], "published weights are scored with task=classification"),
        (["task=semantic_segmentation", "pretrained=true"], "published weights are scored with task=classification"),
    ],
)  # fmt: skip
def test_evaluation_without_a_model_says_so(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(compose("evaluate", [*words, f"run_dir={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()
