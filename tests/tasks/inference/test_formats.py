"""Predictions as COCO's results and annotations, YOLO's labels, CSV and JSON Lines, read by what others read them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import tasks
from tasks.cli.compose import compose
from tasks.cli.predict import predict
from tasks.data.quality.report import examine
from tasks.harness.settings import EvaluateSettings, TrainerSettings
from tasks.inference.formats import image_ids
from tasks.preprocessing import Preprocessing
from tests.tasks.inference.small_files import CATEGORY_IDS, CLASSES, write_pictures
from tests.tiny_runs import quiet_lightning

OPTIONS = {"device": "cpu", "precision": "32-true"}


def run(checkpoint: Path, source: Path, output: Path, *words: str) -> int:
    given = [
        f"checkpoint={checkpoint}",
        f"source={source}",
        f"output={output}",
        "device=cpu",
        "precision=32-true",
    ]
    return predict(compose("predict", [*given, "score_threshold=0", *words])).status


@pytest.fixture(scope="module")
def data_of(files: dict[str, Path], tmp_path_factory) -> dict[str, Path]:
    """By task, a COCO data set whose truth is part of what its model finds, boxes moved a little, so that AP is neither
    0 nor 1."""
    tasks_of_objects = ("detection", "instance_segmentation")
    return {task: data_set(files[task], tmp_path_factory.mktemp("coco")) for task in tasks_of_objects}


def data_set(checkpoint: Path, root: Path) -> Path:
    paths = write_pictures(root / "val2017", 6)
    predictor = tasks.load_predictor(checkpoint, **OPTIONS)
    images, annotations = [], []
    rng = np.random.default_rng(0)
    for path in paths:
        found = predictor(path)
        images.append({"id": int(path.stem), "file_name": path.name, "height": 64, "width": 80})
        for item in found.to_dict()["objects"][::2]:
            x1, y1, x2, y2 = np.array(item["box"]) + rng.normal(0, 1, 4)
            box = [max(x1, 0), max(y1, 0), min(x2, 80) - max(x1, 0), min(y2, 64) - max(y1, 0)]
            if min(box[2:]) < 1:
                continue
            annotations.append(
                {"id": len(annotations) + 1, "image_id": int(path.stem), "category_id": CATEGORY_IDS[item["label"]],
                 "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "segmentation": item.get("segmentation", [])}
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    assert len(annotations) > 10
    return root


def numbers_of(truth: Path, results: Path, kind: str) -> np.ndarray:
    coco = COCO(str(truth))
    evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_coco_results_score_as_evaluate_does(task: str, files, data_of, tmp_path: Path) -> None:
    data = data_of[task]
    assert run(files[task], data / "val2017", tmp_path / "out", "format=coco", "draw=false") == 0
    written = {"detections.json": "bbox", "masks.json": "segm"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.json", "detections.json", *(["masks.json"] if task == "instance_segmentation" else []),
    }  # fmt: skip
    truth = data / "annotations" / "instances_val2017.json"
    quiet_lightning()
    settings = EvaluateSettings(precision="32-true", trainer=TrainerSettings(accelerator="cpu"))
    folder = tmp_path / "scores"
    source = tasks.data.open("coco", root=data)
    numbers = tasks.evaluate(files[task], source, settings=settings, folder=folder).numbers
    for name, kind in written.items():
        if not (tmp_path / "out" / name).exists():
            continue
        stats = numbers_of(truth, tmp_path / "out" / name, kind)
        prefix = "mask_" if kind == "segm" else ""
        ours = [numbers[prefix + key] for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium")]
        np.testing.assert_array_equal(stats[:5], np.nan_to_num(ours, nan=-1))
        assert 0.05 < stats[0] < 0.95
        there = json.loads((folder / name).read_text())
        here = json.loads((tmp_path / "out" / name).read_text())
        assert [(item["image_id"], item["category_id"]) for item in here] == [
            (item["image_id"], item["category_id"]) for item in there
        ]
        assert here[0].keys() == there[0].keys()


def test_coco_labels_are_a_data_set(files, data_of, tmp_path: Path) -> None:
    """What is written can be trained on: read strictly, it holds the boxes and masks that were found."""
    data = data_of["instance_segmentation"]
    out = tmp_path / "out"
    run(
        files["instance_segmentation"],
        data / "val2017",
        out,
        "format=coco",
        "draw=false",
        "score_threshold=0.1",
    )
    places = {"val_images": str(data / "val2017"), "val_annotations": str(out / "predictions.json")}
    source = tasks.data.open("coco", root=data, allow_outside=True, masks=True, **places)
    split = source.split("val")
    found = tasks.load_predictor(files["instance_segmentation"], **OPTIONS, score_threshold=0.1)(
        split.image(0)
    )
    assert source.class_names == CLASSES and source.category_ids.tolist() == CATEGORY_IDS
    target = split.annotations.target(0)
    kept = [i for i, mask in enumerate(found.bitmaps) if mask.bitmap.any()]
    np.testing.assert_allclose(target.boxes, found.boxes[kept], atol=1e-4)
    assert target.labels.tolist() == found.labels[kept].tolist()
    assert target.masks is not None
    left, top, bitmap = target.masks[0]
    mask = np.zeros((64, 80), bool)
    mask[top : top + len(bitmap), left : left + bitmap.shape[1]] = bitmap
    np.testing.assert_array_equal(mask, found.masks[kept[0]])


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_yolo_labels_are_a_data_set(task: str, files, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in" / "images" / "deep", 3)  # a folder of the name that readers look for
    out = tmp_path / "out"
    assert run(files[task], tmp_path / "in", out, "format=yolo", "score_threshold=0.2") == 0
    assert {path.name for path in out.iterdir()} == {"data.yaml", "images", "labels", "annotated"} - (
        {"labels"} if not (out / "labels").exists() else set()
    )
    source = tasks.data.open("yolo", root=out, split="0.7/0.3", masks=task == "instance_segmentation")
    raw = source.with_files().read("train", masks=False)
    found = tasks.load_predictor(files[task], **OPTIONS, score_threshold=0.2)(
        tmp_path / "in/images/deep/000001.png"
    )
    mine = raw.images == raw.file_names.index("images/deep/000001.png")
    boxes = raw.boxes[mine].copy()
    boxes[:, 2:] += boxes[:, :2]
    assert raw.class_names == CLASSES
    kept = np.arange(len(found))
    wanted = found.boxes
    if task == "instance_segmentation":  # outlines, whose boxes are those of the masks
        kept = np.array([i for i, mask in enumerate(found.masks) if mask.any()])
        around = [np.argwhere(found.masks[i]) for i in kept]
        wanted = np.array([[*mask.min(axis=0)[::-1], *(mask.max(axis=0) + 1)[::-1]] for mask in around])
    assert raw.labels[mine].tolist() == found.labels[kept].tolist() and len(kept) > 5
    np.testing.assert_allclose(
        boxes, wanted, atol=1e-3 if task == "detection" else 0.126
    )  # outlines lie inside
    report = examine(source.with_files(), Preprocessing(short_side=None))
    assert not report.has_errors, [str(finding) for finding in report.findings]
    copied = (out / "images/train/images/deep/000001.png").read_bytes()
    assert copied == (tmp_path / "in/images/deep/000001.png").read_bytes()


def test_csv_and_json_lines_say_the_same(files, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 3)
    rows: dict[str, Any] = {}
    for form in ("csv", "jsonl", "json"):
        assert run(files["detection"], tmp_path / "in", tmp_path / form, f"format={form}", "draw=false") == 0
    with open(tmp_path / "csv" / "predictions.csv", newline="") as file:
        numbers = ("score", "x1", "y1", "x2", "y2")
        rows["csv"] = [
            (row["file"], row["class"], int(row["label"]), *(float(row[key]) for key in numbers))
            for row in csv.DictReader(file)
        ]
    lines = (tmp_path / "jsonl" / "predictions.jsonl").read_text().splitlines()
    whole = json.loads((tmp_path / "json" / "predictions.json").read_text())
    assert [json.loads(line) for line in lines] == whole["pictures"] and len(lines) == 3
    rows["json"] = [
        (entry["file"], item["class"], item["label"], item["score"], *item["box"])
        for entry in whole["pictures"]
        for item in entry["objects"]
    ]
    assert rows["csv"] == rows["json"] and len(rows["csv"]) > 3


@pytest.mark.parametrize(
    ("task", "column"), [("classification", "probability"), ("semantic_segmentation", "share")]
)
def test_csv_of_classes(task: str, column: str, files, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path / "in", 1)
    run(files[task], tmp_path / "in", tmp_path / "out", "format=csv", "draw=false")
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = tasks.load_predictor(files[task], **OPTIONS)(path).to_dict()["classes"]
    assert [(row["class"], float(row[column])) for row in rows] == [(c["class"], c[column]) for c in wanted]
    with pytest.raises(
        ValueError, match=f"format=coco holds objects, and the model is for task={task}; give"
    ):
        run(files[task], tmp_path / "in", tmp_path / "none", "format=coco")
    assert not (tmp_path / "none").exists()


def test_masks_as_png(files, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path / "in", 1)
    run(files["instance_segmentation"], tmp_path / "in", tmp_path / "out", "masks=true", "draw=false")
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["pictures"]
    found = tasks.load_predictor(files["instance_segmentation"], **OPTIONS)(path)
    numbers = np.array(Image.open(tmp_path / "out" / entry["instances"]))
    wanted = np.zeros((64, 80), int)
    for number, mask in reversed(list(enumerate(found.masks, start=1))):
        wanted[mask] = number
    np.testing.assert_array_equal(numbers, wanted)
    assert len(np.unique(numbers)) > 2
    run(files["semantic_segmentation"], tmp_path / "in", tmp_path / "maps", "masks=true", "draw=false")
    (entry,) = json.loads((tmp_path / "maps" / "predictions.json").read_text())["pictures"]
    found = tasks.load_predictor(files["semantic_segmentation"], **OPTIONS)(path)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "maps" / entry["labels"])), found.class_map)
    with pytest.raises(ValueError, match="masks=true: the model is for task=detection, which has no masks"):
        run(files["detection"], tmp_path / "in", tmp_path / "none", "masks=true")


def records(*names: str) -> list[dict[str, Any]]:
    return [{"file_name": name, "entry": {}} for name in names]


def test_ids_of_images() -> None:
    assert image_ids(records("000139.jpg", "a/COCO_val2014_000000000042.jpg")) == [139, 42]
    assert image_ids(records("1.jpg", "b.jpg")) == [1, 2]
    assert image_ids(records("a1.jpg", "b1.jpg")) == [1, 2]  # numbers, and not of one picture each
    assert image_ids(records("9" * 19 + ".jpg")) == [1]
    broken = {"file_name": "7.jpg", "entry": {"error": "cut short"}}
    assert image_ids([*records("5.jpg"), broken]) == [5]


def test_a_format_that_is_none(files, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 1)
    with pytest.raises(
        ValueError, match="format=cocoo is unknown; choose one of json, jsonl, csv, coco, yolo"
    ):
        run(files["detection"], tmp_path / "in", tmp_path / "out", "format=cocoo")
    assert not (tmp_path / "out").exists()
