"""Starting from another model: what moves, what stays, and what is said of it."""

import pytest
import torch
from torch import Tensor

from tasks.contracts import Model
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header
from tasks.zoo.registry import build_model, resolved_spec
from tasks.zoo.transfer import transfer

DETECTOR = {
    "name": "faster_rcnn",
    "backbone": {"name": "resnet18"},
    "pyramid": {"name": "fpn", "channels": 8},
    "box_representation_size": 16,
}
CLASSIFIER = {"name": "classifier", "backbone": {"name": "resnet18"}, "pyramid": None}


def make(spec: dict, *classes: str, task: str = "detection", **preprocessing) -> Model:
    settings = Preprocessing(**preprocessing)
    model = build_model(spec, num_classes=len(classes), preprocessing=settings)
    for value in model.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value)  # nothing is equal by its initialisation
    model.header = Header(
        task=task,
        model=resolved_spec(spec, model),
        class_names=list(classes),
        category_ids=list(range(len(classes))),
        preprocessing=settings.to_dict(),
    )
    return model


def copy(model: Model) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_heads_move_by_class_name() -> None:
    source, target = make(DETECTOR, "cat", "dog"), make(DETECTOR, "dog", "horse", "cow")
    fresh = copy(target)
    moved = transfer(target, source)
    classes, theirs = target.roi_head.classes.weight, source.roi_head.classes.weight
    assert torch.equal(classes[0], theirs[1])  # dog
    assert torch.equal(classes[1:3], fresh["roi_head.classes.weight"][1:3])  # horse and cow
    assert torch.equal(classes[3], theirs[2])  # background, behind the classes
    deltas, theirs = target.roi_head.deltas.bias, source.roi_head.deltas.bias
    assert torch.equal(deltas[:4], theirs[4:])
    assert torch.equal(deltas[4:], fresh["roi_head.deltas.bias"][4:])
    assert torch.equal(target.rpn.deltas.weight, source.rpn.deltas.weight)
    assert (moved.moved_classes, moved.new_classes) == (["dog"], ["horse", "cow"])
    assert moved.unused_classes == ["cat"]
    report = moved.report()
    for words in ("classes by name: dog", "randomly initialised classes: horse, cow", "unused classes: cat"):
        assert words in report


def test_the_same_classes_move_whole() -> None:
    source, target = make(DETECTOR, "a", "b"), make(DETECTOR, "a", "b")
    moved = transfer(target, source)
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key]) or key.endswith("num_batches_tracked")
    assert moved.head[0] == moved.head[1] > 0
    assert moved.report().count("\n") == 1


def test_backbone_moves_between_tasks_with_and_without_pyramid() -> None:
    classifier = make(CLASSIFIER, "3", "4", task="classification")
    detector = make(DETECTOR, "3", "4")
    moved = transfer(detector, classifier)
    assert moved.backbone[0] == moved.backbone[1] > 50
    assert moved.pyramid[0] == moved.head[0] == 0
    assert moved.new_classes == ["3", "4"]
    assert torch.equal(detector.backbone.backbone.conv1.weight, classifier.backbone.conv1.weight)
    assert torch.equal(detector.backbone.backbone.bn1.running_var, classifier.backbone.bn1.running_var)
    back = transfer(make(CLASSIFIER, "3", "4", task="classification"), detector)
    assert back.backbone == moved.backbone


def test_frozen_norms_take_the_weights_of_batch_norms() -> None:
    frozen = {**DETECTOR, "backbone": {"name": "resnet18", "norm": "frozen"}}
    moved = transfer(make(frozen, "a"), make(DETECTOR, "a"))
    assert moved.backbone[0] == moved.backbone[1]


def test_another_shape_stays_and_is_named() -> None:
    narrow = {**DETECTOR, "box_representation_size": 12}
    source, target = make(DETECTOR, "a", mean=[0.1, 0.2, 0.3]), make(narrow, "a")
    fresh = copy(target)
    moved = transfer(target, source)
    assert "roi_head.head.fc6.weight" in moved.reshaped
    assert moved.moved_classes == []  # outputs for classes read other inputs
    assert torch.equal(target.roi_head.classes.weight, fresh["roi_head.classes.weight"])
    assert "preprocessing differs in: mean" in moved.report()


def test_another_backbone_is_refused_before_anything_moves() -> None:
    other = {**DETECTOR, "backbone": {"name": "resnet50"}}
    target = make(DETECTOR, "a")
    fresh = copy(target)
    with pytest.raises(
        ValueError, match="of the backbone resnet18 .* whose backbone is resnet50; give backbone"
    ):
        transfer(target, make(other, "a"))
    assert all(torch.equal(fresh[key], value) for key, value in target.state_dict().items())


def test_other_norms_take_what_fits_and_it_is_said() -> None:
    group = {**DETECTOR, "backbone": {"name": "resnet18", "norm": "group"}}
    for mine, theirs, names in (
        (DETECTOR, group, "group in the file and batch"),
        (group, DETECTOR, "batch in the file and group"),
    ):
        source, target = make(theirs, "a"), make(mine, "a")
        report = transfer(target, source).report()
        assert torch.equal(
            target.backbone.backbone.layer1[0].bn1.weight, source.backbone.backbone.layer1[0].bn1.weight
        )
        assert f"the norms differ, {names} here" in report
        begins_anew = "(40 running means and variances, which the file has not, begin anew)"  # of 20 norms
        assert (begins_anew in report) == (theirs is group)
    frozen = {**DETECTOR, "backbone": {"name": "resnet18", "norm": "frozen"}}
    assert "norms differ" not in transfer(make(frozen, "a"), make(DETECTOR, "a")).report()


def test_the_advice_for_another_backbone_can_be_followed() -> None:
    """Given as it stands, it builds the backbone of the file."""
    from tasks.cli.compose import compose

    small = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [16, 32, 64, 128]}
    with pytest.raises(ValueError, match="give backbone=resnet backbone.blocks=") as caught:
        transfer(make(DETECTOR, "a"), make({**DETECTOR, "backbone": small}, "a"))
    words = str(caught.value).split("; give ")[1].split(", or start")[0].split(" ")
    config = compose("train", ["data=coco", "data.root=x", *words])
    built = make({**DETECTOR, "backbone": dict(config.backbone)}, "a")
    assert transfer(built, make({**DETECTOR, "backbone": small}, "a")).moved_classes == ["a"]
