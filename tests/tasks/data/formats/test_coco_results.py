"""Files of results: read strictly against the data, and scored as pycocotools does, whoever wrote them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import tasks
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.harness.score import score_results

NAMES = ["b/two.png", "one.png", "three.png", "four.png"]
IDS = [20, 3, 7, 11]  # in another order than their numbers
CATEGORIES = [(9, "cell"), (4, "nucleus")]


def mask_of(box: list[float]) -> dict[str, Any]:
    x, y, w, h = (round(value) for value in box)
    bitmap = np.zeros((240, 320), np.uint8)
    bitmap[y : y + h, x : x + w // 2 + 1] = 1
    found = coco_mask.encode(np.asfortranarray(bitmap))
    return {"size": [240, 320], "counts": found["counts"].decode()}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Four images with boxes and masks, one of them a crowd."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id, name in zip(IDS, NAMES, strict=True):
        path = folder / "val2017" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 240), (image_id, 100, 50)).save(path)
        images.append({"id": image_id, "file_name": name, "height": 240, "width": 320})
        for _ in range(5):
            box = [*rng.uniform(0, 120, 2), *rng.uniform(20, 118, 2)]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(rng.choice([4, 9])), "bbox": box,
                 "area": box[2] * box[3], "iscrowd": int(len(annotations) == 3), "segmentation": mask_of(box)}
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def results(root: Path) -> list[dict[str, Any]]:
    """Boxes near the true ones, and others, with scores of which some are equal."""
    rng = np.random.default_rng(1)
    truth = json.loads((root / "annotations" / "instances_val2017.json").read_text())["annotations"]
    found = []
    for annotation in rng.permutation(truth + truth[:7]):
        box = (np.array(annotation["bbox"]) + rng.normal(0, 5, 4)).clip(0.5, 120).tolist()
        found.append(
            {"image_id": annotation["image_id"], "category_id": annotation["category_id"], "bbox": box,
             "score": round(float(rng.uniform()), 1), "segmentation": mask_of(box)}
        )  # fmt: skip
    return found


def reference(root: Path, records: list[dict[str, Any]], kind: str) -> np.ndarray:
    truth = COCO(str(root / "annotations" / "instances_val2017.json"))
    if kind == "segm":
        records = [{key: value for key, value in record.items() if key != "bbox"} for record in records]
    evaluation = COCOeval(truth, truth.loadRes([dict(record) for record in records]), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


KEYS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_numbers_are_those_of_pycocotools_on_the_file(
    root: Path, results, backend: str, tmp_path: Path
) -> None:
    for name, without in (("both", ()), ("boxes", ("segmentation",)), ("masks", ("bbox",))):
        records = [{key: value for key, value in record.items() if key not in without} for record in results]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(records))
        numbers = score_results(path, tasks.data.open("coco", root=root), backend=backend).numbers
        kinds = {"both": ("bbox", "segm"), "boxes": ("bbox",), "masks": ("bbox", "segm")}[name]
        assert any(key.startswith("mask_") for key in numbers) == ("segm" in kinds)
        for kind in kinds:
            prefix = "mask_" if kind == "segm" else ""
            ours = np.nan_to_num([numbers[prefix + key] for key in KEYS], nan=-1)
            stats = reference(root, records, kind)
            np.testing.assert_array_equal(ours, stats[:9], err_msg=f"{name} {kind}")
            assert stats[0] > 0 and (stats[3:5] > 0).any()


def test_the_command(root: Path, results, tmp_path: Path, capsys) -> None:
    (tmp_path / "found.json").write_text(json.dumps(results))
    words = [
        f"detections={tmp_path / 'found.json'}",
        "data=coco",
        f"data.root={root}",
        f"run_dir={tmp_path / 'out'}",
    ]
    evaluate(compose("evaluate", words))
    printed = capsys.readouterr().out
    assert "27 detections on 4 images of the val split" in printed
    assert (
        "Boxes\n Average Precision" in printed and "\nMasks\n" in printed and "Scored by hotcoco" in printed
    )
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["AP"] == reference(root, results, "bbox")[0]
    with pytest.raises(ValueError, match="or a model, not both"):
        evaluate(compose("evaluate", [*words, "checkpoint=model.safetensors"]))


def test_labels_of_predict_are_known_by_file_names(root: Path, results, tmp_path: Path) -> None:
    """Images are numbered anew there, and called by the last part of their names."""
    numbers = {image_id: number for number, image_id in enumerate(IDS, start=1)}
    annotations = [
        {**record, "id": i, "image_id": numbers[record["image_id"]]} for i, record in enumerate(results, 1)
    ]
    images = [{"id": numbers[i], "file_name": Path(name).name} for i, name in zip(IDS, NAMES, strict=True)]
    (tmp_path / "labels.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    data = tasks.data.open("coco", root=root)
    scored = [score_results(tmp_path / name, data).numbers for name in ("labels.json", "results.json")]
    assert repr(scored[0]) == repr(scored[1])


def test_no_detections(root: Path, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    numbers = score_results(tmp_path / "none.json", tasks.data.open("coco", root=root)).numbers
    assert numbers["AP"] == 0 and numbers["AR_100"] == 0


def test_masks_where_the_data_has_none(root: Path, results, tmp_path: Path, caplog) -> None:
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
        annotation["iscrowd"] = 0
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(results))
    places = {"val_images": str(root / "val2017"), "val_annotations": str(tmp_path / "boxes.json")}
    data = tasks.data.open("coco", root=tmp_path, allow_outside=True, **places)
    with caplog.at_level("INFO", logger="vertebra"):
        numbers = score_results(tmp_path / "found.json", data).numbers
    assert not any(name.startswith("mask_") for name in numbers) and "has no masks; those of" in caplog.text


def changed(**values: Any) -> Any:
    def change(records: list[dict[str, Any]]) -> Any:
        records[2] = {key: value for key, value in {**records[2], **values}.items() if value is not ...}
        return records

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(image_id=99), r"item 2 is of image_id 99, which the data does not have \(1 of 27 items"),
        (changed(image_id=None), "item 2 is of image_id None"),
        (changed(category_id=1), r"item 2 is of category_id 1, which the data does not have \(4 nucleus, 9 cell\)"),
        (changed(score=...), r"item 2 has no 'score', .* \(1 of 27 have none\)"),
        (changed(score="high"), "item 2 has the score 'high'; wanted a number"),
        (changed(score=float("nan")), "item 2 has the score nan"),
        (changed(bbox=[1, 2, 3]), r"item 2 has the bbox \[1, 2, 3\]; wanted \[x, y, width, height\]"),
        (changed(bbox=[1, 2, -3, 4]), "item 2 has the bbox"),
        (changed(bbox=...), "item 2 has no 'bbox', which other items have"),
        (changed(segmentation={"size": [9, 9], "counts": "a"}), "item 2 has a segmentation that cannot be used"),
        (lambda records: [*records[:2], 7], "item 2 is 7; wanted an object"),
        (lambda records: {"results": records}, "is JSON but not a list of results"),
        (
            lambda records: [{k: r[k] for k in ("image_id", "category_id", "score")} | {"points": 1} for r in records],
            "has neither 'bbox' nor 'segmentation' .item 0 has category_id, image_id, points, score.",
        ),
        (
            lambda records: {"annotations": [{"image_id": r["image_id"], "iscrowd": 0} for r in records]},
            "27 of 27 have none.* looks like a file of annotations",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(root: Path, results, tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(change([dict(record) for record in results])))
    with pytest.raises(ValueError, match=message) as caught:
        score_results(path, tasks.data.open("coco", root=root), folder=tmp_path / "out")
    assert str(path) in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, "", "{", "[" * 100_000])
def test_files_that_are_none(root: Path, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match="detections=.*(does not exist|is not JSON)"):
        score_results(path, tasks.data.open("coco", root=root))
    with pytest.raises(ValueError, match="is a folder"):
        score_results(tmp_path, tasks.data.open("coco", root=root))


def lvis_files(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Two images, as LVIS writes them; class 1 is annotated on the first, not exhaustively, and absent from the
    second; class 2 is annotated on the second, and nothing is known of it on the first."""
    images = []
    for number in (1, 2):
        (folder / "val2017").mkdir(exist_ok=True)
        Image.new("RGB", (100, 100)).save(folder / "val2017" / f"{number}.png")
        url = f"http://images.cocodataset.org/val2017/{number}.png"
        images.append({"id": number, "coco_url": url, "height": 100, "width": 100})
    images[0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [1]}
    images[1] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    square = [10.0, 10.0, 50.0, 50.0]
    ring = [10.0, 10.0, 60.0, 10.0, 60.0, 60.0, 10.0, 60.0]
    annotations = [
        {"id": i, "image_id": i, "category_id": i, "bbox": square, "area": 2500.0, "segmentation": [ring]}
        for i in (1, 2)
    ]
    categories = [{"id": i, "name": f"c{i}", "frequency": f} for i, f in ((1, "r"), (2, "f"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "lvis.json").write_text(json.dumps(content))
    far = [70.0, 70.0, 20.0, 20.0]
    found = [(1, 1, square, 0.5), (2, 2, square, 0.5), (1, 1, far, 0.9), (1, 2, far, 0.9)]
    keys = ("image_id", "category_id", "bbox", "score")
    return folder / "lvis.json", [dict(zip(keys, item, strict=True)) for item in found]


def test_federated_rules(tmp_path: Path, capsys) -> None:
    """By hand: what is found beside the objects of the first image is no mistake of class 1 (not exhaustive) nor of
    class 2 (nothing is known); of class 1 on the second, where it is absent, it halves the precision at each recall."""
    path, found = lvis_files(tmp_path)
    data = tasks.data.open("coco", root=tmp_path, val_images=".", val_annotations=path.name)
    assert data.split("val").annotations.file_name(0) == "val2017/1.png"
    (tmp_path / "found.json").write_text(json.dumps(found))
    numbers = score_results(tmp_path / "found.json", data).numbers
    assert (numbers["AP"], numbers["AP_rare"], numbers["AP_frequent"]) == pytest.approx((1, 1, 1))
    assert np.isnan(numbers["AP_common"]) and "mask_AP" not in numbers
    mistake = {"image_id": 2, "category_id": 1, "bbox": [70.0, 70.0, 20.0, 20.0], "score": 0.9}
    (tmp_path / "found.json").write_text(json.dumps([*found, mistake]))
    words = [
        f"detections={tmp_path / 'found.json'}",
        "data=coco",
        f"data.root={tmp_path}",
        "data.val_images=.",
    ]
    evaluate(compose("evaluate", [*words, "data.val_annotations=lvis.json", f"run_dir={tmp_path / 'out'}"]))
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (numbers["AP"], numbers["AP_rare"], numbers["AP/c1"]) == pytest.approx((0.75, 0.5, 0.5))
    assert "AP_rare        0.500" in capsys.readouterr().out
    items = [{key: value for key, value in item.items() if key != "bbox"} for item in found[:2]]
    for item in items:
        bitmap = np.zeros((100, 100), np.uint8, order="F")
        bitmap[10:60, 10:60] = 1
        mask = coco_mask.encode(bitmap)
        item["segmentation"] = {"size": [100, 100], "counts": mask["counts"].decode()}
    (tmp_path / "found.json").write_text(json.dumps(items))
    numbers = score_results(tmp_path / "found.json", data).numbers
    assert (numbers["AP"], numbers["mask_AP"], numbers["mask_AP_rare"]) == pytest.approx((1, 1, 1))
