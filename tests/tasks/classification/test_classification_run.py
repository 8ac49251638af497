"""The task through training, evaluation and prediction on embedded digits."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tasks
from tasks.classification.result import ClassScores
from tasks.classification.task import ClassificationTask, accuracy_table
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.cli.predict import predict
from tasks.cli.train import train
from tasks.data.formats.digits import SingleDigitsData
from tasks.visualization.bars import draw_best

NAMES = [str(digit) for digit in range(10)]
DATA = ["data=single_digits", "data.size=32", "data.num_train=6400", "data.num_val=60", "data.num_test=20"]
SMALL = [
    "task=classification", *DATA, "recipe=[]", "preprocessing.short_side=null", "backbone=resnet",
    "backbone.block=basic", "backbone.blocks=[1,1,1]", "backbone.widths=[16,32,64]", "backbone.stem=deep",
    "loader.batch_size=32", "optimizer.lr=0.01", "precision=32-true", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder of one short epoch: enough to know most digits from one another."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    train(compose("train", [*SMALL, "trainer.max_steps=200", f"run_dir={folder}"]))
    return folder


def numbers_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def test_run_folder_holds_everything(run: Path) -> None:
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names == {
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "classes.json", "config.yaml", "environment.json",
        "log.txt", "confusion.csv", "outcomes.npz", "report.html", "report.json",
        "metrics.csv", "metrics.json", "model.safetensors", "predictions.jpg",
    }  # fmt: skip
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/loss_class", "val/loss", "val/top1", "val/top5", "val/accuracy/3"} <= set(
        header
    )


def test_it_learns(run: Path) -> None:
    assert numbers_of(run)["top1"] > 0.3  # by chance 0.1


def test_numbers_are_those_of_the_written_files(run: Path) -> None:
    numbers = numbers_of(run)
    entries = json.loads((run / "classes.json").read_text())
    labels = SingleDigitsData(size=32, num_train=1, num_val=60, num_test=20).split("val").annotations.labels
    assert [entry["image_id"] for entry in entries] == list(range(60))
    assert [entry["class"] for entry in entries] == [NAMES[label] for label in labels]
    for entry in entries:
        shares = [best["probability"] for best in entry["best"]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
    first = [entry["best"][0]["class"] for entry in entries]
    assert numbers["top1"] == np.mean([a == entry["class"] for a, entry in zip(first, entries, strict=True)])
    in_five = [entry["class"] in [best["class"] for best in entry["best"]] for entry in entries]
    assert numbers["top5"] == pytest.approx(np.mean(in_five))
    with open(run / "confusion.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true class", *NAMES]
    matrix = np.array([[int(cell) for cell in row[1:]] for row in rows])
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, [NAMES.index(name) for name in first]), 1)
    np.testing.assert_array_equal(matrix, expected)
    by_class = matrix.diagonal() / matrix.sum(axis=1)
    assert [numbers[f"accuracy/{name}"] for name in NAMES] == pytest.approx(by_class.tolist())
    assert numbers["mean_class_accuracy"] == pytest.approx(by_class.mean())


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoints/last.ckpt"])
def test_evaluation_repeats_the_numbers_of_training(run: Path, tmp_path: Path, file: str, capsys) -> None:
    words = [
        f"checkpoint={run / file}",
        *DATA,
        "precision=32-true",
        "trainer.accelerator=cpu",
        "loader.batch_size=7",
    ]
    evaluate(compose("evaluate", [*words, f"run_dir={tmp_path / 'out'}"]))
    assert numbers_of(tmp_path / "out") == pytest.approx(numbers_of(run))
    assert (tmp_path / "out" / "confusion.csv").read_text() == (run / "confusion.csv").read_text()
    assert f"top-1 accuracy        {100 * numbers_of(run)['top1']:6.3f} %" in capsys.readouterr().out


def test_predictor_says_what_validation_said(run: Path) -> None:
    split = SingleDigitsData(size=32, num_train=1, num_val=60, num_test=20).split("val")
    found = tasks.load_predictor(run / "model.safetensors", precision="32-true", device="cpu")(
        [split.image(i) for i in range(6)]
    )
    for entry, scores in zip(json.loads((run / "classes.json").read_text()), found, strict=False):
        best = scores.to_dict()["classes"]
        assert [b["class"] for b in best] == [b["class"] for b in entry["best"]]
        assert [b["probability"] for b in best] == pytest.approx(
            [b["probability"] for b in entry["best"]], rel=1e-3
        )
        assert scores.probabilities.sum() == pytest.approx(1)
        assert scores.summary().startswith(f"{entry['best'][0]['class']} (")


def test_predict_draws_and_writes(run: Path, tmp_path: Path) -> None:
    Image.fromarray(SingleDigitsData(num_test=1).split("test").image(0)).save(tmp_path / "a.png")
    words = [
        f"checkpoint={run / 'model.safetensors'}",
        f"source={tmp_path / 'a.png'}",
        f"output={tmp_path / 'out'}",
    ]
    predict(compose("predict", [*words, "device=cpu"]))
    files = {p.suffix: p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert len(json.loads(files[".json"].read_text())) > 0
    picture = next(p for p in files.values() if p.suffix in (".png", ".jpg"))
    with Image.open(picture) as drawn:
        assert min(drawn.size) >= 320


def test_drawing_puts_bars_below_the_picture() -> None:
    image = np.full((400, 500, 3), 200, np.uint8)
    drawn = draw_best(image, ["a" * 200, "b"], np.array([0, 1]), np.array([0.75, 0.25]))
    assert drawn.shape[1] == 500
    np.testing.assert_array_equal(drawn[:400], image)
    bars = drawn[400:]
    height = len(bars) // 2
    widths = [int((row[3] != 32).any(axis=1).sum()) for row in (bars[:height], bars[height:])]
    assert widths == pytest.approx([375, 125], abs=2)


def test_scores_without_classes_below_a_threshold_stay() -> None:
    scores = ClassScores(np.array([0.6, 0.4], np.float32), np.array([1, 0]), ["b", "a"])
    assert len(scores.above(0.9)) == 2
    assert scores.summary() == "b (60.0%)"


def test_table_shows_the_hardest_classes() -> None:
    numbers = {"top1": 0.5, "top5": 1.0, "mean_class_accuracy": 0.5}
    numbers |= {f"accuracy/{k}": k / 20 for k in range(20)} | {"accuracy/none": float("nan")}
    lines = accuracy_table(numbers).splitlines()
    assert "50.000 %" in lines[0]
    assert len(lines) == 3 + 2 + 10
    assert lines[5].split() == ["0", "0.000", "%"]
    assert "none" not in accuracy_table(numbers)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_mixed_run_repeats_and_goes_on_exactly(tmp_path: Path, monkeypatch) -> None:
    """Three runs of one seed with Mixup and CutMix: straight, again, and stopped in the second epoch."""
    words = [*SMALL, "data.num_train=40", "loader.batch_size=8", "trainer.max_steps=12", "data.num_val=4"]
    words += ["task.mixup=0.4", "task.cutmix=1.0"]

    def start(name: str, *more: str) -> Path:
        train(compose("train", [*words, *more, f"run_dir={tmp_path / name}"]))
        return tmp_path / name

    straight = weights_of(start("straight"))
    for name, more, is_same in (("again", [], True), ("plain", ["task.mixup=0", "task.cutmix=0"], False)):
        other = weights_of(start(name, *more))
        assert all(torch.equal(value, other[key]) for key, value in straight.items()) == is_same

    step = ClassificationTask.training_step

    def stop_in_second_epoch(self, batch, batch_index):
        if self.trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", stop_in_second_epoch)
        start("stopped")
    contents = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    assert contents["global_step"] == 8
    train(compose("train", [f"resume={tmp_path / 'stopped'}"]))
    resumed = weights_of(tmp_path / "stopped")
    for key, value in straight.items():
        assert torch.equal(value, resumed[key]), key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["task=detection", "data=single_digits"],
            "detection needs a box for each object, which SingleDigitsData",
        ),
        (
            ["task=classification", "data=digits"],
            "classification needs a class for each image, which DigitsData",
        ),
        (["task=classification", "task.mixup=-1"], "task.mixup=-1 must be 0, for none, or the α"),
        (["task=classification", "task.mixup=x"], "task.mixup=x must be 0, for none, or the α"),
        (
            ["task=classification", "trainer.devices=[1,2]", "trainer.accelerator=cpu"],
            r"trainer.devices=\[1, 2\] names devices by number, and CPUs have none; give a count of processes",
        ),
        pytest.param(
            ["task=classification", "trainer.devices=[1,2]"],
            r"trainer.devices=\[1, 2\] names devices by number",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["task=classification", "model.class_weights=[1]"], "model.class_weights=.1. must be 10 numbers"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(compose("train", [*words, "data.num_train=64", f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_unknown_setting_of_the_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown setting 'task.mixupp'.*task.mixup"):
        compose("train", ["task=classification", "task.mixupp=1"])
    with pytest.raises(ValueError, match="unknown setting 'task.mixup'"):
        compose("train", ["task=detection", "task.mixup=1"])


def test_mixing_images_of_several_sizes_says_so(tmp_path: Path) -> None:
    for i, size in enumerate(((40, 40), (40, 60))):
        for split in ("train", "val"):
            place = tmp_path / "data" / split / f"class {i}"
            place.mkdir(parents=True)
            Image.fromarray(np.zeros((*size, 3), np.uint8)).save(place / "a.png")
    words = ["data=image_folder", f"data.root={tmp_path / 'data'}", "preprocessing.center_crop=null"]
    words += ["augmentation=none", "preprocessing.short_side=32", "loader.batch_size=2", "task.mixup=0.2"]
    words += ["backbone=cifar_resnet20", "trainer.accelerator=cpu", f"run_dir={tmp_path / 'run'}"]
    words.append("trainer.log_every_n_steps=1")
    with pytest.raises(
        ValueError, match="task.mixup and task.cutmix need images of one size, but a batch has 32 x 32"
    ):
        train(compose("train", ["task=classification", *words]))


def test_another_backbone_takes_no_options_of_the_recipes() -> None:
    for name in ("resnet18", "vgg16", "cifar_resnet20"):
        config = compose("train", ["task=semantic_segmentation", f"backbone={name}", "backbone.norm=frozen"])
        assert dict(config.backbone) == {"name": name, "norm": "frozen", "pretrained": False}
    kept = compose("train", ["task=semantic_segmentation", "backbone.stem=7x7"]).backbone
    assert (kept.name, kept.stem, list(kept.blocks)) == ("resnet", "7x7", [1, 1, 1, 1])
