"""Objects that were lost at a planted stage, and a real detector's stages against what it predicts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks.contracts import Batch
from tasks.data.loading.collate import batch_images
from tasks.detection.explain import STAGES, Trace, explainer, lost_at, trace, with_names
from tasks.detection.postprocess import DetectionSettings
from tasks.zoo.registry import build_model

OBJECT = np.array([100.0, 100.0, 140.0, 140.0])
AWAY = np.array([300.0, 300.0, 340.0, 340.0])
SHIFTED = OBJECT + 24.0  # IoU 0.09


def down(pixels: float) -> np.ndarray:
    """The object's box, moved."""
    return OBJECT + np.array([0, pixels, 0, pixels])


def planted(**changes) -> Trace:
    """A detector of two classes that finds the object of class 0 with 0.9, and another one elsewhere."""
    anchors = np.stack([OBJECT + 4, AWAY])
    proposals = np.stack([OBJECT + 2, AWAY])
    boxes = np.stack([np.stack([OBJECT, OBJECT]), np.stack([AWAY, AWAY])])
    scores = np.array([[0.9, 0.05], [0.1, 0.8]])
    values = {
        "anchors": anchors,
        "anchor_boxes": proposals,
        "proposals": proposals,
        "scores": scores,
        "boxes": boxes,
    }
    return Trace(**{**values, "settings": DetectionSettings(), **changes})


def with_rival() -> dict:
    """A box of class 0 with a higher score that overlaps the one on the object, but not the object."""
    mine, rival = down(12), down(25)  # IoU with the object 0.54 and 0.23, with each other 0.51
    boxes = np.stack([np.stack([mine, mine]), np.stack([rival, rival])])
    return {"boxes": boxes, "scores": np.array([[0.7, 0.0], [0.95, 0.0]])}


CASES = {
    "found": {},
    "no anchor": {
        "anchors": np.stack([AWAY]), "anchor_boxes": np.stack([AWAY]), "proposals": np.stack([AWAY]),
        "boxes": np.stack([np.stack([AWAY, AWAY])]), "scores": np.array([[0.1, 0.8]]),
    },
    "no proposal": {
        "proposals": np.stack([AWAY]), "boxes": np.stack([np.stack([AWAY, AWAY])]), "scores": np.array([[0.1, 0.8]]),
    },
    "score": {"scores": np.array([[0.04, 0.9], [0.1, 0.8]])},
    "placement": {"boxes": np.stack([np.stack([SHIFTED, OBJECT]), np.stack([AWAY, AWAY])])},
    "suppressed": with_rival(),
    "cap": {"settings": DetectionSettings(max_detections=1), "scores": np.array([[0.3, 0.0], [0.1, 0.8]])},
}  # fmt: skip


@pytest.mark.parametrize("stage", CASES)
def test_the_planted_stage_is_named(stage: str) -> None:
    found = lost_at(planted(**CASES[stage]), OBJECT, 0)
    assert found.stage == stage
    assert STAGES.keys() == CASES.keys()
    if stage == "suppressed":
        np.testing.assert_array_equal(found.suppressor, down(25))
        assert "score 0.700 was suppressed by one of class 0 with score 0.950" in found.words
    if stage == "score":
        assert "0.040 is not above 0.050; class 1 has 0.900 there" in found.words
    if stage == "no proposal":
        assert "others were preferred" in found.words


def test_other_classes_suppress_where_they_are_told_to() -> None:
    changes = with_rival()
    changes["scores"] = np.array([[0.7, 0.0], [0.0, 0.95]])
    assert lost_at(planted(**changes), OBJECT, 0).stage == "found"
    agnostic = DetectionSettings(class_agnostic_nms=True)
    assert lost_at(planted(**changes, settings=agnostic), OBJECT, 0).stage == "suppressed"


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "fcos", "gfl"])
def test_stages_agree_with_what_a_detector_predicts(name: str) -> None:
    torch.manual_seed(0)
    spec = {
        "name": name,
        "backbone": {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 8, 16, 16]},
        "pyramid": {"name": "fpn", "channels": 16},
        "score_threshold": 0.0,
        "max_detections": 10,
    }
    model = build_model(spec, num_classes=3, preprocessing={"short_side": 96, "max_size": 96}).eval()
    if name != "faster_rcnn":
        for parameter in model.parameters():  # far from one another, so that scores differ
            parameter.data += 0.05 * torch.randn_like(parameter)
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    batch: Batch = batch_images([image], model.preprocessing)
    with torch.inference_mode():
        found = model(batch)
    seen = trace(model, batch)
    keep = found.labels[0] >= 0
    assert keep.any()
    for box, label, score in zip(
        found.boxes[0, keep], found.labels[0, keep].tolist(), found.scores[0, keep], strict=True
    ):
        explained = lost_at(seen, box.double().numpy(), label)
        assert explained.stage == "found"
        assert explained.score >= float(score) - 1e-5
    # The same of an image twice as large, whose boxes are in its own pixels.
    model.header = SimpleNamespace(class_names=["cat", "dog", "hen"])
    explain = explainer(model)
    assert explain is not None
    large = image.repeat(2, axis=0).repeat(2, axis=1)
    halved = batch_images([large], model.preprocessing)
    again = trace(model, halved)
    boxes = found.boxes[0, keep].double().numpy()
    classes = [["cat", "dog", "hen"][label] for label in found.labels[0, keep].tolist()]
    expected = [
        lost_at(again, box, label) for box, label in zip(boxes, found.labels[0, keep].tolist(), strict=True)
    ]
    given = explain(large, 2 * boxes, classes)
    assert given == [(one.stage, with_names(one.words, ["cat", "dog", "hen"])) for one in expected]
    strict = replace(seen, settings=replace(seen.settings, score_threshold=1.0))
    assert lost_at(strict, found.boxes[0, 0].double().numpy(), int(found.labels[0, 0])).stage == "score"


def test_classes_have_their_names_in_explanations() -> None:
    words = "suppressed by one of class 1 with score 0.5; class 0 has 0.3"
    assert (
        with_names(words, ["cat", "dog"])
        == "suppressed by one of class dog with score 0.5; class cat has 0.3"
    )


def test_a_cascade_cannot_be_followed_and_the_error_names_all_that_can() -> None:
    backbone = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 8, 8, 8]}
    spec = {"name": "faster_rcnn", "backbone": backbone, "cascade": [0.5, 0.6]}
    model = build_model(spec, num_classes=3, preprocessing={}).eval()
    model.header = SimpleNamespace(class_names=["a", "b", "c"], model=spec)
    assert explainer(model) is None
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(
        ValueError, match="this faster_rcnn cannot .* retinanet, fcos, gfl .* without a cascade"
    ):
        trace(model, batch_images([image], model.preprocessing))
