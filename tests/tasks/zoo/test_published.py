"""Published weights of whole models: the table, where files come from, scoring, predicting and starting from them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import detection as oracle
from torchvision.models import get_model_weights

import tasks
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.cli.predict import predict
from tasks.cli.train import train
from tasks.zoo.pretrained import PUBLISHED, coco_classes, published_model
from tasks.zoo.registry import TASK_SPECS, task_of
from tests.backbones.file_server import FileServer
from tests.tasks.zoo.small_weights import publish, small_torchvision, write_coco

THEIR_NAMES = {
    ("faster_rcnn", "COCO_V1"): "fasterrcnn_resnet50_fpn",
    ("faster_rcnn", "COCO_V2"): "fasterrcnn_resnet50_fpn_v2",
    ("mask_rcnn", "COCO_V1"): "maskrcnn_resnet50_fpn",
    ("mask_rcnn", "COCO_V2"): "maskrcnn_resnet50_fpn_v2",
    ("retinanet", "COCO_V1"): "retinanet_resnet50_fpn",
    ("retinanet", "COCO_V2"): "retinanet_resnet50_fpn_v2",
    ("fcos", "COCO_V1"): "fcos_resnet50_fpn",
}
ENTRIES = [(name, tag) for name, tags in PUBLISHED.items() for tag in tags]
CLASSES = {"dog": 18, "cat": 17, "toothbrush": 90}
TINY = [
    "precision=32-true",
    "trainer.accelerator=cpu",
    "preprocessing.short_side=64",
    "preprocessing.max_size=128",
]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VERTEBRA_MIRROR", str(folder))
    return folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", CLASSES)


def put(mirror: Path, monkeypatch: pytest.MonkeyPatch, name: str, tag: str) -> Path:
    content = publish(monkeypatch, name, tag)
    path = mirror / PUBLISHED[name][tag].file
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("name", "tag"), ENTRIES)
def test_the_table_says_what_torchvision_says(name: str, tag: str) -> None:
    entry = PUBLISHED[name][tag]
    (theirs,) = get_model_weights(THEIR_NAMES[name, tag])
    assert entry.url == theirs.url
    numbers = theirs.meta["_metrics"]["COCO-val2017"]
    expected = {"AP": numbers["box_map"]} | (
        {"mask_AP": numbers["mask_map"]} if "mask_map" in numbers else {}
    )
    assert {key: round(100 * value, 1) for key, value in entry.metrics.items()} == expected
    assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)
    assert entry.file.removesuffix(".pth").endswith(entry.sha256[:8])
    categories = theirs.meta["categories"]
    assert all(categories[i] == coco_name for coco_name, i in coco_classes().items())
    models = {name: model for spec in TASK_SPECS.values() for name, model in spec.models.items()}
    assert {name for name, model in models.items() if model.load_weights} == set(PUBLISHED)


def test_there_are_eighty_classes_with_gaps_between_their_ids() -> None:
    classes = coco_classes()
    assert len(classes) == 80
    assert (classes["person"], classes["stop sign"], classes["toothbrush"]) == (1, 13, 90)
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(classes.values())


@pytest.mark.parametrize(("name", "tag"), ENTRIES)
def test_a_file_as_large_as_the_published_one_loads_completely(name: str, tag: str, tmp_path: Path) -> None:
    """Names and shapes of all tensors are those of torchvision's own network with its weights."""
    theirs = getattr(oracle, THEIR_NAMES[name, tag])(weights=None, weights_backbone=None, num_classes=91)
    path = tmp_path / PUBLISHED[name][tag].file
    torch.save(theirs.state_dict(), path)
    model = published_model({"name": name}, str(path))
    if name in ("faster_rcnn", "mask_rcnn"):
        their_head, our_head = theirs.roi_heads.box_predictor.cls_score.weight, model.roi_head.classes.weight
        assert torch.equal(our_head[[0, 11, 79, 80]], their_head[[1, 13, 90, 0]])
    else:
        theirs_by_anchor = theirs.head.classification_head.cls_logits.weight.unflatten(0, (-1, 91))
        ours_by_class = model.heads[0].classes.weight.unflatten(0, (80, -1))
        assert torch.equal(ours_by_class[[0, 11, 79]].transpose(0, 1), theirs_by_anchor[:, [1, 13, 90]])
    assert model.header.class_names[11] == "stop sign"
    assert model.header.category_ids[11] == 13
    assert model.header.task == task_of(name)
    norms = {type(m).__name__: m.eps for m in model.backbone.backbone.modules() if hasattr(m, "eps")}
    assert norms == {"FrozenBatchNorm2d": 0.0 if tag == "COCO_V1" and name != "fcos" else 1e-5}
    assert model.header.provenance["licence"] == "BSD-3-Clause"
    assert not model.training


@pytest.mark.parametrize(("name", "tag"), [("faster_rcnn", "COCO_V2"), ("mask_rcnn", "COCO_V1")])
def test_evaluation_scores_them_and_leaves_a_model_file(
    name: str, tag: str, mirror: Path, coco: Path, monkeypatch, tmp_path: Path, capsys
) -> None:
    put(mirror, monkeypatch, name, tag)
    out = tmp_path / "out"
    words = [f"task={task_of(name)}", f"model={name}", f"pretrained={tag}", "data=coco", f"data.root={coco}"]
    evaluate(compose("evaluate", [*words, f"run_dir={out}", "backbone=resnet18", *TINY]))
    numbers = json.loads((out / "metrics.json").read_text())
    assert set(PUBLISHED[name][tag].metrics) <= set(numbers)
    found = json.loads((out / "detections.json").read_text())
    assert found
    assert {entry["category_id"] for entry in found} <= set(CLASSES.values())
    model = tasks.load_model(out / "model.safetensors")
    assert model.header.class_names == sorted(CLASSES, key=CLASSES.__getitem__)
    assert model.header.category_ids == [17, 18, 90]
    known = {metric: numbers[metric] for metric in model.header.metrics}  # beside it there are intervals
    assert set(PUBLISHED[name][tag].metrics) <= set(known)
    assert model.header.metrics == pytest.approx(known, abs=0, rel=0, nan_ok=True)
    assert "COCO" in str(model.header.provenance["data"])
    theirs = small_torchvision(name, tag).roi_heads.box_predictor.cls_score.weight
    assert torch.equal(model.roi_head.classes.weight, theirs[[17, 18, 90, 0]])


def test_prediction_with_nothing_but_the_name(
    mirror: Path, coco: Path, monkeypatch, tmp_path: Path, capsys
) -> None:
    put(mirror, monkeypatch, "faster_rcnn", "COCO_V1")
    out = tmp_path / "out"
    words = [
        "task=detection",
        "pretrained=COCO_V1",
        f"source={coco / 'val2017'}",
        f"output={out}",
        "device=cpu",
    ]
    assert predict(compose("predict", [*words, "precision=32-true", "score_threshold=0.0"])).status == 0
    report = json.loads((out / "predictions.json").read_text())
    assert report["model"] == "faster_rcnn COCO_V1"
    objects = [entry for picture in report["pictures"] for entry in picture["objects"]]
    assert objects
    assert {entry["class"] for entry in objects} <= set(coco_classes())
    predictor = tasks.published_predictor("faster_rcnn", "COCO_V1", device="cpu", precision="32-true")
    found = predictor(coco / "val2017" / "val_0.png")
    assert [round(float(s), 4) for s in found.scores] == [
        round(entry["score"], 4) for entry in report["pictures"][0]["objects"]
    ]
    assert predictor.header.category_ids[-1] == 90


@pytest.mark.parametrize(("name", "tag"), [("faster_rcnn", "COCO_V1"), ("mask_rcnn", "COCO_V2")])
def test_training_starts_from_them_with_the_head_of_the_shared_classes(
    name: str, tag: str, monkeypatch, tmp_path: Path, capsys
) -> None:
    """From a server, with a new class beside two of COCO's; a rate of zero leaves the weights as they came."""
    coco = write_coco(tmp_path / "coco", {"unicorn": 5, "cat": 7, "dog": 9})
    server = FileServer()
    content = publish(monkeypatch, name, tag)
    server.files[PUBLISHED[name][tag].file] = content
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VERTEBRA_MIRROR", server.url)
    out = tmp_path / "run"
    words = [
        f"task={task_of(name)}", f"model={name}", f"pretrained={tag}", "data=coco", f"data.root={coco}",
        "backbone=resnet18", "optimizer.lr=0", "loader.batch_size=3", "trainer.max_epochs=1",
        "trainer.log_every_n_steps=1", f"run_dir={out}",
    ]  # fmt: skip
    try:
        train(compose("train", [*words, *TINY]))
    finally:
        server.close()
    said = capsys.readouterr().out
    assert f"started from {PUBLISHED[name][tag].file}" in said
    assert "classes by name: cat, dog" in said
    assert "randomly initialised classes: unicorn" in said
    assert server.requests == [(PUBLISHED[name][tag].file, None)]
    weights = load_file(out / "model.safetensors")
    theirs = small_torchvision(name, tag)
    head = theirs.roi_heads.box_predictor
    assert torch.equal(weights["roi_head.classes.weight"][[1, 2, 3]], head.cls_score.weight[[17, 18, 0]])
    assert torch.equal(weights["roi_head.deltas.bias"][4:8], head.bbox_pred.bias[68:72])
    assert torch.equal(
        weights["backbone.backbone.layer4.1.conv2.weight"], theirs.backbone.body.layer4[1].conv2.weight
    )
    if name == "mask_rcnn":
        assert torch.equal(
            weights["mask_head.masks.weight"][1:],
            theirs.roi_heads.mask_predictor.mask_fcn_logits.weight[[17, 18]],
        )
    header = tasks.load_model(out / "model.safetensors").header
    assert header.provenance["init_from"]["pretrained"] == PUBLISHED[name][tag].file
    assert header.class_names == ["unicorn", "cat", "dog"]
    assert header.model["backbone"]["norm"] == "frozen"
    assert header.model.items() >= PUBLISHED[name][tag].options.items()


def test_what_is_asked_for_goes_before_what_was_published(mirror: Path, monkeypatch) -> None:
    put(mirror, monkeypatch, "faster_rcnn", "COCO_V2")
    spec = {"name": "faster_rcnn", "score_threshold": 0.3, "backbone": {"name": "resnet18", "norm": "batch"}}
    model = published_model(spec, "COCO_V2", class_names=["dog", "cat"])
    assert model.roi_head.detection.score_threshold == 0.3
    assert model.header.model["backbone"]["norm"] == "batch"
    assert model.header.model["pyramid"]["norm"] == "batch"
    assert model.header.category_ids == [18, 17]
    image = np.zeros((64, 64, 3), np.uint8)
    assert tasks.inference.predictor.Predictor(model, device="cpu")(image).class_names is not None


def test_without_a_network_the_error_says_which_file_to_put_where(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tasks.zoo.pretrained.TORCHVISION", "http://127.0.0.1:9/")
    monkeypatch.delenv("VERTEBRA_MIRROR", raising=False)
    file = PUBLISHED["faster_rcnn"]["COCO_V2"].file
    wanted = (
        f"Without a network, get http://127.0.0.1:9/{file} elsewhere and put it at {tmp_path}/cache/{file}"
    )
    with pytest.raises(ValueError, match=re.escape(wanted)):
        published_model({"name": "faster_rcnn"}, True)


def test_a_damaged_file_is_refused(mirror: Path, monkeypatch) -> None:
    path = put(mirror, monkeypatch, "faster_rcnn", "COCO_V1")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="its SHA-256 does not begin with"):
        published_model({"name": "faster_rcnn"}, "COCO_V1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrained=COCO_V3"], "pretrained=COCO_V3 is neither published weights of faster_rcnn nor the file of any; "
         r"did you mean COCO_V2 or COCO_V1\? There are COCO_V1 \(fasterrcnn_resnet50_fpn_coco-258fb6c6.pth\)"),
        (["pretrained=COCO_V1", "backbone=resnet18"], "on the backbone resnet50, not resnet18; give backbone=resnet50"),
        (["pretrained=COCO_V1", "pyramid=pafpn"], "on the pyramid fpn, not pafpn"),
        (["pretrained=COCO_V1", "init_from=x.ckpt"], "give pretrained=COCO_V1, a whole model, or init_from=, not both"),
        (["pretrained=COCO_V1", "backbone.pretrained=true"], "a whole model, or backbone.pretrained=, not both"),
        (["task=classification", "data=single_digits", "pretrained=true"],
         "no weights are published for model=classifier, only for faster_rcnn, mask_rcnn, retinanet, fcos"),
    ],
)  # fmt: skip
def test_training_says_what_is_wrong(words: list[str], message: str, tmp_path: Path, coco: Path) -> None:
    data = [] if "data=single_digits" in words else ["data=coco", f"data.root={coco}"]
    with pytest.raises(ValueError, match=message):
        train(compose("train", [*data, *words, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_evaluation_and_prediction_say_what_is_wrong(
    mirror: Path, coco: Path, monkeypatch, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="of which 'unicorn' is none; rename the data's categories as COCO does"
    ):
        published_model({"name": "faster_rcnn"}, "COCO_V1", class_names=["cat", "unicorn"])
    with pytest.raises(
        ValueError, match="pretrained=COCO_V1 needs the model that it is of; give a task as well"
    ):
        predict(compose("predict", ["pretrained=COCO_V1", f"source={coco / 'val2017'}"]))
    with pytest.raises(ValueError, match="checkpoint is not set; give checkpoint=FILE.* pretrained=COCO_V2"):
        predict(compose("predict", [f"source={coco / 'val2017'}"]))
    with pytest.raises(ValueError, match="give checkpoint=FILE or pretrained=COCO_V1, not both"):
        predict(compose("predict", ["checkpoint=x", "pretrained=COCO_V1", f"source={coco / 'val2017'}"]))
