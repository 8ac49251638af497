"""The three tools through their real commands: train, then evaluate and predict with what it left."""

import contextlib
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import tasks
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.cli.train import train
from tasks.data.formats.digits import DigitsData
from tests.commands import command
from tests.tiny_runs import NETWORK

ROOT = Path(__file__).parents[1]
SMALL = [
    "data.num_train=64", "data.num_val=6", "data.num_test=4", "data.size=96", "loader.batch_size=4",
    "trainer.max_steps=100", "pyramid.channels=16",
    # A network that has hardly learnt where digits are finds a few among many proposals.
    "model.rpn_post_nms_train=300", "model.rpn_post_nms_test=200", *NETWORK,
]  # fmt: skip


def tool(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command(name, *words, cwd=cwd)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder of a hundred training steps: enough to find a few digits."""
    place = tmp_path_factory.mktemp("work")
    result = tool("train", "task=detection", *SMALL, "run_dir=run", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for words in ("(AP) @[ IoU=0.50:0.95 | area=   all", "(AR) @[ IoU=0.50:0.95", "AP by class"):
        assert words in result.stdout
    return place / "run"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    scene = DigitsData(num_test=1).split("test").image(0)
    Image.fromarray(scene).save(folder / "a.png")
    Image.fromarray(scene[40:, :, 0]).save(folder / "grey.jpg")
    return folder


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_the_output_names_who_scored(run: Path, tmp_path: Path, backend: str) -> None:
    words = [
        f"checkpoint={run / 'model.safetensors'}",
        "data.num_val=6",
        "data.size=96",
        f"metric.backend={backend}",
    ]
    result = tool(
        "evaluate", *words, "trainer.accelerator=cpu", "precision=32-true", "run_dir=out", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert f"\nScored by {backend}\n" in result.stdout


def test_an_unknown_evaluator_is_refused_before_the_folder_exists(run: Path, tmp_path: Path) -> None:
    words = [f"checkpoint={run / 'model.safetensors'}", "data.num_val=6", "metric.backend=coco"]
    result = tool("evaluate", *words, "run_dir=out", cwd=tmp_path)
    assert result.returncode == 2
    assert "metric backend 'coco' is unknown: take auto, hotcoco or pycocotools" in result.stderr
    assert not (tmp_path / "out").exists()


def test_run_folder_holds_everything(run: Path) -> None:
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names == {
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "environment.json",
        "log.txt", "detections.json", "metrics.csv", "outcomes.npz", "report.html", "report.json",
        "metrics.json", "model.safetensors", "predictions.jpg",
    }  # fmt: skip
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/loss", "val/AP", "val/AP50", "step"} <= set(header)
    with Image.open(run / "predictions.jpg") as picture:
        assert picture.size[0] > 100


def test_checkpoint_opens_as_data_alone(run: Path) -> None:
    for name in ("best", "last"):
        contents = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert contents["config"]["task"]["name"] == "detection"
        assert contents["vertebra"]["class_names"] == [str(digit) for digit in range(10)]


def test_checkpoint_and_model_file_hold_the_same_model(run: Path) -> None:
    a, b = tasks.load_model(run / "model.safetensors"), tasks.load_model(run / "checkpoints" / "last.ckpt")
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoints/last.ckpt"])
def test_evaluate_repeats_the_numbers_of_training(run: Path, tmp_path: Path, file: str) -> None:
    words = [
        f"checkpoint={run / file}",
        *SMALL[:4],
        "precision=32-true",
        "trainer.accelerator=cpu",
        "run_dir=out",
    ]
    result = tool("evaluate", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    trained = json.loads((run / "metrics.json").read_text())
    evaluated = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert evaluated == pytest.approx(trained, nan_ok=True)
    assert (tmp_path / "out" / "detections.json").exists()


def test_numbers_equal_pycocotools_on_the_written_detections(run: Path, tmp_path: Path) -> None:
    """The numbers of pycocotools, called by hand on the files that evaluation and the annotations leave."""
    source = DigitsData(num_train=64, num_val=6, num_test=4, size=96)
    (tmp_path / "val.json").write_text(json.dumps(source.split("val").annotations.to_coco()))
    numbers = json.loads((run / "metrics.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "val.json"))
        by_hand = COCOeval(truth, truth.loadRes(str(run / "detections.json")), "bbox")
        by_hand.evaluate()
        by_hand.accumulate()
        by_hand.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    names += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
    assert np.nanmax([numbers[name] for name in names]) > 0
    for name, expected in zip(names, by_hand.stats, strict=True):
        assert np.nan_to_num(numbers[name], nan=-1.0) == pytest.approx(expected, abs=1e-9), name


def test_predict_in_a_fresh_process_equals_this_one(run: Path, pictures: Path, tmp_path: Path) -> None:
    model = run / "model.safetensors"
    options = ["score_threshold=0.0", "precision=32-true", "device=cpu", "output=out"]
    result = tool("predict", f"checkpoint={model}", f"source={pictures}", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.jpg", "grey.jpg", "predictions.json"}
    report = json.loads((tmp_path / "out" / "predictions.json").read_text())
    predictor = tasks.load_predictor(model, device="cpu", precision="32-true")
    for entry in report["pictures"]:
        here = predictor(entry["file"])
        assert len(here) == len(entry["objects"]) > 0
        np.testing.assert_allclose([o["box"] for o in entry["objects"]], here.boxes, atol=0.01)
        assert [o["class"] for o in entry["objects"]] == here.class_names


def test_predictor_takes_paths_images_and_arrays(run: Path, pictures: Path) -> None:
    predictor = tasks.load_predictor(run / "model.safetensors", device="cpu", precision="32-true")
    image = Image.open(pictures / "a.png").copy()
    found = predictor([pictures / "a.png", str(pictures / "a.png"), image, np.asarray(image)])
    for other in found[1:]:
        np.testing.assert_allclose(other.boxes, found[0].boxes, atol=1e-3)
    assert len(predictor([])) == 0
    mixed = predictor([pictures / "grey.jpg", image])  # of another size: no padding, no other result
    np.testing.assert_allclose(mixed[1].boxes, found[0].boxes, atol=1e-3)
    with pytest.raises(ValueError, match="uint8"):
        predictor(np.zeros((4, 4, 3)))


def test_predict_names_an_unreadable_picture_and_keeps_the_others(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    (source / "good.png").write_bytes((pictures / "a.png").read_bytes())
    (source / "cut.jpg").write_bytes((pictures / "grey.jpg").read_bytes()[:-400])
    result = tool(
        "predict", f"checkpoint={run / 'model.safetensors'}", "source=pictures", "output=out", cwd=tmp_path
    )
    assert result.returncode == 1
    assert "cut.jpg" in result.stderr
    assert "Traceback" not in result.stderr
    report = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(p["file"]).name for p in report["pictures"]] == ["good.png"]
    with Image.open(source / "good.png") as image:
        width, height = image.size
    words = (f"max_pixels={width * height - 1}", "output=none")
    refused = tool(
        "predict", f"checkpoint={run / 'model.safetensors'}", "source=pictures/good.png", *words, cwd=tmp_path
    )
    assert refused.returncode == 1
    assert "good.png' is too large" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbone=resnet51"], "no backbone is called 'resnet51'.*resnet50"),
        (["model=faster_rcn"], "model=faster_rcn is not in configs/model/.*faster_rcnn"),
        (["task=detecion"], "task=detecion is not in configs/task/.*detection"),
        (["data=coco", "data.root=nowhere"], "nowhere"),
        (["preprocessing.short_side=2000"], "short_side=2000 must be between 1 and max_size"),
        (["data.num_train=2"], "2 .*batch_size"),
    ],
)
def test_bad_settings_stop_before_a_folder_is_made(words, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=message):
        train(compose("train", words))
    assert list(tmp_path.iterdir()) == []


def test_run_dir_in_use_is_refused(run: Path) -> None:
    before = (run / "metrics.csv").read_bytes()
    with pytest.raises(FileExistsError, match="is not empty; give another folder"):
        train(compose("train", [*SMALL, f"run_dir={run}"]))
    assert (run / "metrics.csv").read_bytes() == before


def test_checkpoint_with_another_number_of_classes(run: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "val" / "x.jpg")
    (tmp_path / "val.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "x.jpg", "width": 64, "height": 48}],
                "annotations": [],
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            }
        )
    )
    words = ["data=coco", f"data.root={tmp_path}", "data.val_images=val", "data.val_annotations=val.json"]
    with pytest.raises(ValueError, match=r"knows 10 classes \(0, 1, .*the data set has 2 \(cat, dog\)"):
        evaluate(compose("evaluate", [f"checkpoint={run / 'model.safetensors'}", *words]))


def test_source_that_matches_nothing(run: Path, tmp_path: Path) -> None:
    result = tool("predict", f"checkpoint={run / 'model.safetensors'}", "source=*.gif", cwd=tmp_path)
    assert result.returncode == 2
    assert "*.gif is not a picture, folder or glob" in result.stderr
    assert list(tmp_path.iterdir()) == []
