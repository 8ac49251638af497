"""The whole way through the real commands on embedded data: train, evaluate, predict, load again."""

import csv
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import backbones
import tasks
from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.data.formats.digits import DigitsData
from tests.commands import command

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("VERTEBRA_DATA", ROOT / "../shared/data"))
SMALL = [
    "data.size=64", "data.num_train=16", "data.num_val=4", "data.num_test=4", "precision=32-true",
    "trainer.accelerator=cpu",
]  # fmt: skip


def tool(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command(name, *words, cwd=cwd)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("work")
    words = ["task=semantic_segmentation", *SMALL, "trainer.max_steps=6", "trainer.log_every_n_steps=1"]
    result = tool("train", *words, "run_dir=run", cwd=place)
    assert result.returncode == 0, result.stderr
    assert "mean IoU" in result.stdout
    assert "background" in result.stdout
    return place / "run"


def test_run_folder_holds_everything(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"iou.csv", "confusion.csv", "metrics.json", "model.safetensors", "predictions.jpg"} <= names
    numbers = json.loads((run / "metrics.json").read_text())
    assert {"mean_iou", "pixel_accuracy", "iou/background", "iou/9"} <= numbers.keys()
    with open(run / "metrics.csv", newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_confusion_counts_every_original_pixel(run: Path) -> None:
    with open(run / "confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    counts = np.array([row[1:] for row in rows[1:]], np.int64)
    assert counts.sum() == 4 * 64 * 64
    numbers = json.loads((run / "metrics.json").read_text())
    assert numbers["pixel_accuracy"] == counts.trace() / counts.sum()


def test_evaluate_repeats_the_numbers_and_needs_no_word_of_the_task(run: Path, tmp_path: Path) -> None:
    result = tool("evaluate", f"checkpoint={run / 'model.safetensors'}", *SMALL, "run_dir=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    trained = json.loads((run / "metrics.json").read_text())
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == pytest.approx(trained, nan_ok=True)
    for name in ("iou.csv", "confusion.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (run / name).read_bytes()


def test_predictor_gives_class_maps_of_original_size(run: Path) -> None:
    predictor = tasks.load_predictor(run / "model.safetensors", device="cpu", precision="32-true")
    scene = DigitsData(size=64, num_test=1).split("test").image(0)
    whole, part = predictor([scene, scene[:50, :37]])
    assert whole.class_map.shape == (64, 64)
    assert part.class_map.shape == (50, 37)
    assert whole.class_map.dtype == np.uint8
    assert whole.class_names == ["background", *(str(digit) for digit in range(10))]
    again = tasks.load_predictor(run / "checkpoints" / "last.ckpt", device="cpu", precision="32-true")(scene)
    np.testing.assert_array_equal(again.class_map, whole.class_map)


def test_predict_writes_overlay_and_shares(run: Path, tmp_path: Path) -> None:
    scene = DigitsData(size=64, num_test=1).split("test").image(0)
    Image.fromarray(scene).save(tmp_path / "a.png")
    model = run / "model.safetensors"
    words = [f"checkpoint={model}", "source=a.png", "output=out", "device=cpu", "precision=32-true"]
    result = tool("predict", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["pictures"]
    here = tasks.load_predictor(model, device="cpu", precision="32-true")(scene)
    assert {c["class"]: c["share"] for c in entry["classes"]} == here.shares()
    with Image.open(tmp_path / "out" / entry["annotated"]) as picture:
        assert picture.width >= 400


def test_backbone_loads_alone(run: Path) -> None:
    extractor = backbones.load_backbone(run / "model.safetensors")
    assert next(iter(extractor.feature_info)) == "p2"
    assert extractor(torch.zeros(1, 3, 64, 64))["p2"].shape[-2:] == (16, 16)


def test_data_without_class_maps_stops_before_a_folder_is_made(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="needs the class of every pixel, which SingleDigitsData does not have"
    ):
        train(compose("train", ["task=semantic_segmentation", "data=single_digits", "backbone=resnet18"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "coco446").is_dir(), reason="needs the real photographs (VERTEBRA_DATA)")
@pytest.mark.parametrize("model", ["semantic_fpn", "deeplabv3"])
def test_trains_on_photographs_with_crowds_and_empty_images(model: str, tmp_path: Path) -> None:
    words = [
        "task=semantic_segmentation", f"model={model}", "data=coco", f"data.root={(DATA / 'coco446').resolve()}",
        "data.max_images=24", "backbone=resnet18", "pretrained=false", "preprocessing.short_side=160",
        "preprocessing.max_size=224", "trainer.max_epochs=1", "trainer.accelerator=cpu", "precision=32-true",
        "run_dir=run",
    ]  # fmt: skip
    result = tool("train", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 < numbers["mean_iou"] < 1
    assert len([name for name in numbers if name.startswith("iou/")]) == 81
