"""What training chooses for data of one's own: what somebody has said stays, the rest follows from data and machine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks
from tasks.cli.compose import compose
from tasks.cli.data import data_of
from tasks.cli.nodes import plain
from tasks.cli.settings import settings_of
from tasks.cli.suit import suited_config
from tasks.cli.train import train
from tasks.data.augmentation.named import NAMED, transforms
from tasks.harness.choices import NETWORK, TRAINING, geometric, run
from tasks.harness.dotted import flat
from tasks.harness.known import Choice, Facts, Known, facts_of
from tasks.harness.settings import TrainSettings
from tasks.harness.suit import _has_stages
from tasks.zoo.pretrained import PUBLISHED
from tests.backbones.file_server import FileServer
from tests.tasks.zoo.small_weights import publish, write_coco

CELLS = Facts(num_train=205, num_val=87, short_side=480, object_sides=(0.076, 0.215, 0.445), most_objects=28)
NUCLEI = Facts(
    num_train=399, num_val=133, short_side=256, object_sides=(0.011, 0.052, 0.163), most_objects=375
)
USUAL = {"pyramid.name": "fpn", "norm": "auto", "loader.batch_size": 8, "size": "auto"}
ON_IMAGENET = {"resnet18", "resnet34", "resnet50"}.__contains__
ONES_OWN = ["task=detection", "data=coco", "pretrained=false"]


def known(
    task: str = "detection", facts: Facts = CELLS, *, on_gpu: bool = False, said: dict[str, Any] | None = None
) -> Known:
    said = said or {}
    start = Known(
        task=task,
        on_gpu=on_gpu,
        values={**USUAL, **said},
        given=list(said),
        has_weights=ON_IMAGENET,
        has_stages=ON_IMAGENET,
        facts=facts,
    )
    return run(TRAINING, run(NETWORK, start))


def chosen(*arguments: Any, **options: Any) -> dict[str, Any]:
    return {
        key: value for choice in known(*arguments, **options).choices for key, value in choice.values.items()
    }


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"), {"unicorn": 5, "cat": 7, "dog": 9})


def test_a_gpu_gets_the_large_network_with_all_of_its_weights() -> None:
    values = chosen(on_gpu=True)
    assert (values["backbone.name"], values["pretrained"]) == ("resnet50", "COCO_V2")
    assert "pyramid.channels" not in values and "model.anchor_sizes" not in values  # the weights' own
    assert values["preprocessing.short_side"] == 800
    assert (values["optimizer.lr"], values["reference_batch_size"]) == (2e-4, 16)


@pytest.mark.parametrize(
    ("task", "said", "expected"),
    [
        ("detection", {}, {"backbone.name": "resnet18", "backbone.pretrained": True, "pretrained": False}),
        ("detection", {"size": "medium"}, {"backbone.name": "resnet34", "backbone.pretrained": True}),
        ("detection", {"size": "large"}, {"backbone.name": "resnet50", "pretrained": "COCO_V2"}),
        ("detection", {"backbone.name": "resnet50"}, {"pretrained": "COCO_V2"}),
        ("detection", {"backbone.name": "resnet200"}, {"pretrained": False, "optimizer.lr": 0.002}),
        ("detection", {"backbone.name": "resnet50", "pyramid.name": "pafpn"}, {"backbone.pretrained": True}),
        ("detection", {"pretrained": "COCO_V1"}, {"backbone.name": "resnet50", "optimizer.lr": 2e-4}),
        ("detection", {"model.name": "yolox", "size": "large"}, {"backbone.pretrained": True}),
        ("semantic_segmentation", {"size": "large"}, {"backbone.pretrained": True, "pretrained": False}),
        ("classification", {"pyramid.name": None}, {"backbone.pretrained": True, "pretrained": False}),
        ("instance_segmentation", {"size": "large"}, {"pretrained": "COCO_V2"}),
    ],
)  # fmt: skip
def test_weights_are_those_that_there_are(task: str, said: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chosen(task, said=said).items() >= expected.items()


@pytest.mark.parametrize("said", [{"pretrained": False}, {"pretrained": None}, {"init_from": "x"}])
def test_random_weights_or_a_file_are_nobody_elses_choice(said: dict[str, Any]) -> None:
    values = chosen(said=said)
    assert "pretrained" not in values and "backbone.pretrained" not in values
    assert values["optimizer.lr"] == (2e-4 if "init_from" in said else 0.002)


def test_a_file_brings_its_network() -> None:
    file = {"backbone.name": "resnet34", "pyramid.name": "fpn", "pyramid.channels": 96}
    start = Known(
        task="detection", on_gpu=False, values={**USUAL, "init_from": "x"}, given=["init_from"], file=file
    )
    (choice,) = run(NETWORK, start).choices
    assert choice.values == file


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("facts", [CELLS, NUCLEI, Facts(num_train=40, num_val=3)])
def test_what_somebody_says_is_not_chosen(facts: Facts, on_gpu: bool) -> None:
    everything = chosen(facts=facts, on_gpu=on_gpu, said={"pretrained": False})
    assert len(everything) > 9
    for key, value in everything.items():
        again = chosen(facts=facts, on_gpu=on_gpu, said={"pretrained": False, key: value})
        assert key not in again
    whole = known(facts=facts, on_gpu=on_gpu, said={"optimizer": 1, "augmentation": 1})
    assert not [key for choice in whole.choices for key in choice.values if key.startswith(("optim", "augm"))]


def test_images_are_no_larger_than_their_detail_and_as_large_as_their_objects_need() -> None:
    assert chosen()["preprocessing.short_side"] == 384
    thumbnails = Facts(num_train=205, num_val=87, short_side=200, object_sides=(0.1, 0.3, 0.5))
    assert chosen(facts=thumbnails)["preprocessing.short_side"] == 224
    assert chosen(facts=NUCLEI)["preprocessing.short_side"] == 384  # of 256: nuclei of 13 pixels become 20


def test_anchors_span_the_objects() -> None:
    assert geometric(8, 128, 5) == [8, 16, 32, 64, 128]
    assert geometric(10, 10, 5) == [10, 12, 14, 17, 20]
    assert chosen(said={"pretrained": False})["model.anchor_sizes"] == [29, 45, 71, 110, 171]
    assert "model.anchor_sizes" not in chosen(said={"model.name": "fcos", "pretrained": False})


def test_a_retinanet_of_new_heads_has_norms_and_small_anchors_on_its_finest_map() -> None:
    cells = chosen(said={"model.name": "retinanet", "pretrained": False})
    assert cells["model.anchor_sizes"] == [29, 58, 116, 232, 464] and cells["model.head_norm"] == "group"
    nuclei = chosen(facts=NUCLEI, said={"model.name": "retinanet", "backbone.pretrained": True})
    assert nuclei["model.anchor_sizes"] == [16, 32, 64, 128, 256] and nuclei["model.head_norm"] == "group"
    whole = chosen(said={"model.name": "retinanet", "init_from": "model.safetensors"})
    assert not {"model.anchor_sizes", "model.head_norm"} & set(whole)
    fcos = chosen(said={"model.name": "fcos", "pretrained": False})
    assert "model.head_norm" not in fcos


def test_detections_are_as_many_as_objects() -> None:
    nuclei, cells = chosen("instance_segmentation", NUCLEI), chosen()
    assert (nuclei["model.max_detections"], nuclei["model.rpn_post_nms_test"]) == (400, 1000)
    assert "model.max_detections" not in cells and cells["model.rpn_post_nms_test"] == 200
    assert (nuclei["model.score_threshold"], cells["model.score_threshold"]) == (0.01, 0.001)


def test_heads_without_a_gpu_are_half_as_wide_unless_they_have_learned() -> None:
    width = "model.box_representation_size"
    assert chosen(said={"pretrained": False})[width] == 512
    assert width not in chosen(said={"pretrained": False}, on_gpu=True)
    assert width not in chosen(said={"init_from": "x"})
    assert chosen("instance_segmentation", NUCLEI, said={"pretrained": False})["model.mask_width"] == 128
    assert "model.mask_width" not in chosen("instance_segmentation", NUCLEI, said={"init_from": "x"})


def test_first_stages_of_a_trained_backbone_stay_as_they_are() -> None:
    key = "backbone.frozen_stages"
    assert chosen(said={"backbone.pretrained": True})[key] == 1
    assert chosen("instance_segmentation", NUCLEI)[key] == 1  # weights of ImageNet are published
    for said in ({"pretrained": False}, {"init_from": "x"}, {"pretrained": "COCO_V2"}):
        assert key not in chosen(said=said)
    assert key not in chosen("classification", said={"backbone.pretrained": True})
    without = {"backbone.name": "vit_small_patch16_224", "backbone.pretrained": True}
    assert key not in chosen(said=without)


def test_whether_a_backbone_has_stages_is_asked_of_itself() -> None:
    assert [_has_stages(name) for name in ("resnet18", "densenet121", "timm", "nothing")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("images", "on_gpu", "said", "steps"),
    [
        (205, False, {}, 650),  # 2,600 images: a Cascade R-CNN
        (205, False, {"model.cascade": None}, 1000),  # 4,000
        (205, False, {"model.name": "retinanet"}, 1000),
        (205, True, {}, 2000),  # 16,000
        (60, False, {}, 650),
        (205, False, {"model.name": "mask_rcnn"}, 650),
        (4000, False, {}, 8000),  # 8 times each
        (205, False, {"loader.batch_size": 16}, 150),
        (205, False, {"trainer.accumulate_grad_batches": 4}, 150),
        (205, False, {"trainer.max_epochs": 3}, None),
        (205, False, {"trainer.max_steps": 70}, None),
    ],
)
def test_steps_follow_from_the_number_of_images(
    images: int, on_gpu: bool, said: dict[str, Any], steps: int | None
) -> None:
    values = chosen(facts=Facts(num_train=images, num_val=87), on_gpu=on_gpu, said=said)
    assert values.get("trainer.max_steps") == steps
    assert values.get("trainer.max_epochs") == (None if "trainer.max_epochs" in said else -1)


def test_the_last_validation_is_at_the_end_and_enough_of_them_stop_early() -> None:
    short, long = chosen(), chosen(facts=Facts(num_train=4000, num_val=500))
    assert short["trainer.max_steps"] % short["trainer.val_check_interval"] == 0
    assert "early_stopping" not in short
    assert (long["trainer.val_check_interval"], long["early_stopping"]) == (500, 5)
    assert "early_stopping" not in chosen(facts=Facts(num_train=4000, num_val=20))
    with_two = chosen(facts=Facts(num_train=205, num_val=87), said={"trainer.accumulate_grad_batches": 2})
    assert (
        with_two["trainer.val_check_interval"] == with_two["trainer.max_steps"]
    )  # batches: half of the steps


def test_a_detector_without_weights_of_its_own_is_a_cascade() -> None:
    stages = [0.5, 0.6, 0.7]
    assert chosen()["model.cascade"] == stages
    assert chosen(said={"backbone.pretrained": True})["model.cascade"] == stages
    for said in (
        {"model.name": "gfl"},
        {"init_from": "file"},
        {"model.cascade": None},
        {"model": "faster_rcnn"},
    ):
        assert "model.cascade" not in chosen(said=said), said
    assert "model.cascade" not in chosen("instance_segmentation", NUCLEI)


def test_few_images_are_augmented_more() -> None:
    assert chosen()["augmentation"] == "standard"
    assert chosen(facts=Facts(num_train=60, num_val=20))["augmentation"] == "strong"
    assert chosen("semantic_segmentation", Facts(num_train=60, num_val=20))["augmentation"] == "standard"
    for name, nodes in NAMED.items():
        assert [type(t).__name__ for t in transforms(name)] == [
            n["_target_"].rpartition(".")[2] for n in nodes
        ]


def test_facts(coco: Path) -> None:
    source = tasks.data.open("coco", root=coco)
    facts, annotations = facts_of(source), source.split("train").annotations
    assert (facts.num_train, facts.num_val) == (len(annotations), len(source.split("val")))
    sides = np.sqrt(annotations.boxes[:, 2:].prod(axis=1)) / annotations.sizes.min()
    assert facts.object_sides == pytest.approx(np.quantile(sides, (0.02, 0.5, 0.98)))
    assert facts.most_objects >= np.diff(annotations.offsets).max()


def test_a_line_says_the_words_and_the_reason() -> None:
    choice = Choice({"model.anchor_sizes": [8, 16], "ema": 0.99, "trainer.max_time": None}, "because")
    assert choice.line() == "model.anchor_sizes=[8,16] ema=0.99 trainer.max_time=null: because"


def test_the_printed_words_say_all_that_was_chosen(coco: Path) -> None:
    words = [*ONES_OWN, f"data.root={coco}"]
    config = compose("train", words)
    suited, lines = suited_config(config, data_of(config))
    said = [word for line in lines for word in line.split(": ")[0].split(" ")]
    again, nothing = suited_config(repeated := compose("train", [*words, *said]), data_of(repeated))
    assert not nothing
    assert plain(again) == plain(suited)
    settings = settings_of(TrainSettings, suited)
    assert settings.trainer.max_steps == 650 and settings.ema == 0.99 and settings.optimizer.lr == 0.002


@pytest.mark.parametrize(
    "words",
    [
        ["task=detection"],
        ["task=classification"],
        ["experiment=blood_cells"],
        ["experiment=nuclei", "optimizer.lr=0.1"],
    ],
)
def test_recipes_and_experiments_say_all_there_is(words: list[str], coco: Path) -> None:
    config = compose("train", [*words, *(["data.root=x"] if "experiment" in words[0] else [])])
    source = tasks.data.open("coco", root=coco) if "experiment" in words[0] else tasks.data.open("digits")
    suited, lines = suited_config(config, source)
    assert not lines
    assert plain(suited) == {key: value for key, value in plain(config).items() if key != "given"}
    config.size = "small"
    with pytest.raises(ValueError, match="size=small is for data of one's own without an experiment"):
        suited_config(config, source)


def test_groups_and_files_are_said_too(coco: Path, tmp_path: Path) -> None:
    words = [*ONES_OWN, f"data.root={coco}", "optimizer=sgd", "augmentation=strong", "backbone=vgg11"]
    config = compose("train", words)
    suited, _ = suited_config(config, data_of(config))
    assert (suited.optimizer.lr, suited.reference_batch_size) == (0.02, 16)
    assert suited.augmentation == config.augmentation and suited.backbone.name == "vgg11"
    folder = compose("train", ["task=classification", "data=image_folder", "data.root=x"]).given
    assert {"preprocessing.short_side", "preprocessing.center_crop"} <= set(folder)
    assert any(key.startswith("augmentation") for key in folder)


def test_python_and_command_line_choose_the_same(coco: Path) -> None:
    config = compose("train", [*ONES_OWN, f"data.root={coco}"])
    suited, _ = suited_config(config, data_of(config))
    settings = tasks.recipe_settings("detection", data_of(config))
    composed = settings_of(TrainSettings, suited)
    for name in (
        "optimizer",
        "schedule",
        "trainer",
        "loader",
        "preprocessing",
        "ema",
        "norm",
        "early_stopping",
    ):
        assert getattr(settings, name) == getattr(composed, name), name
    assert [type(t) for t in settings.augmentation or ()] == [type(t) for t in composed.augmentation or ()]
    assert flat({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


def test_one_word_trains_from_weights_of_the_whole_model(
    coco: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pretrained=auto` from a server with files in the published layout, and without it one sentence."""
    content, entry = publish(monkeypatch, "faster_rcnn", "COCO_V2"), PUBLISHED["faster_rcnn"]["COCO_V2"]
    server = FileServer()
    server.files[entry.file] = content
    monkeypatch.setattr("tasks.zoo.pretrained.TORCHVISION", f"{server.url}/")
    monkeypatch.delenv("VERTEBRA_MIRROR", raising=False)
    few = ["trainer.accelerator=cpu", "trainer.max_steps=1", "loader.batch_size=2", "optimizer.lr=0",
           "precision=32-true", "preprocessing.short_side=64", "preprocessing.max_size=128"]  # fmt: skip
    words = ["task=detection", "data=coco", f"data.root={coco}", *few]
    try:
        monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
        train(compose("train", [*words, f"run_dir={tmp_path / 'run'}"]))
    finally:
        server.close()
    printed = capsys.readouterr()
    assert f"downloading {entry.file}" in printed.err and f"downloaded {entry.file}" in printed.err
    assert "pretrained=COCO_V2: weights of COCO for the whole faster_rcnn" in printed.out
    assert (
        "classes by name: cat, dog" in printed.out and "randomly initialised classes: unicorn" in printed.out
    )
    config = compose("train", [f"resume={tmp_path / 'run'}"])
    assert config.pretrained == "COCO_V2" and config.reference_batch_size == 16 and config.ema == 0.99
    assert server.requests == [(entry.file, None)]

    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="could not download") as error:
        train(compose("train", [*words, f"run_dir={tmp_path / 'gone'}"]))
    assert f"put it at {tmp_path / 'empty' / entry.file}" in str(error.value)
    assert str(error.value).endswith("; or train from random weights: pretrained=false")
    assert "\n" not in str(error.value) and not (tmp_path / "gone").exists()


def test_a_size_that_there_is_not(coco: Path) -> None:
    config = compose("train", [*ONES_OWN, f"data.root={coco}", "size=huge"])
    with pytest.raises(ValueError, match="size=huge is unknown; wanted auto, small, medium, large"):
        suited_config(config, data_of(config))
