"""The one-stage detectors through the real commands: train, then evaluate and predict with other settings."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from tasks import load_model
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.cli.train import train
from tasks.data.formats.digits import DigitsData
from tasks.inference.predictor import Predictor
from tasks.zoo.model_file import read
from tests.tiny_runs import SCENES, checkpoint, rows

STEPS = 6
OPTIONS = {
    "retinanet": ["model.head_layers=1"],
    "fcos": ["model.head_layers=1"],
    "gfl": ["model.head_layers=1", "model.assignment=task_aligned"],
    "yolox": ["model.width=0.0625"],
}
SPLIT = ["data.size=96", "data.num_train=40", "data.num_val=4", "data.num_test=1"]


@pytest.fixture(scope="module", params=OPTIONS)
def run(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    words = ["task=detection", f"model={request.param}", *SCENES, *OPTIONS[request.param]]
    train(
        compose(
            "train",
            [*words, f"trainer.max_steps={STEPS}", "task.l1_final_fraction=0.34", f"run_dir={folder}"],
        )
    )
    return folder


def test_a_run_leaves_a_model_that_says_all_of_itself(run: Path) -> None:
    header, _ = read(run / "model.safetensors")
    assert {"box_loss", "class_loss", "pre_nms", "score_threshold", "soft_nms_sigma"} <= header.model.keys()
    assert header.model["name"] == run.parent.name[:-1]
    assert checkpoint(run)["config"]["model"]["name"] == header.model["name"]
    assert header.model["pyramid"]["levels"] == ["c3", "c4", "c5"]
    logged = rows(run)
    assert all(np.isfinite(value) for row in logged for name, value in row.items() if "loss" in name)
    closing = [int(row["step"]) for row in logged if "train/loss_l1" in row]
    assert closing == ([4, 5] if header.model["name"] == "yolox" else [])


def test_evaluation_with_other_settings(run: Path, tmp_path: Path) -> None:
    words = [
        f"checkpoint={run / 'model.safetensors'}",
        *SPLIT,
        "precision=32-true",
        "trainer.accelerator=cpu",
    ]
    found = {}
    for name, more in {
        "few": ["model.score_threshold=0.0", "model.max_detections=3"],
        "soft": ["model.score_threshold=0.0", "model.max_detections=7", "model.soft_nms_sigma=0.5"],
    }.items():
        evaluate(compose("evaluate", [*words, *more, f"run_dir={tmp_path / name}"]))
        found[name] = json.loads((tmp_path / name / "detections.json").read_text())
    assert len(found["few"]) == 4 * 3
    assert len(found["soft"]) == 4 * 7


def test_prediction_with_other_settings(run: Path) -> None:
    path = run / "model.safetensors"
    image = DigitsData(size=96, num_test=1).split("test").image(0)
    settings = {"score_threshold": 0.0, "max_detections": 5, "class_agnostic_nms": True}
    assert len(Predictor.load(path, settings=settings, device="cpu")(image)) == 5
    with pytest.raises(
        ValueError, match="model.head_norm cannot be set for a trained .*; what can be set is"
    ):
        load_model(path, {"head_norm": "group"})
    config = compose("predict", [f"checkpoint={path}", "source=x", "model.nms_threshold=0.3"])
    assert OmegaConf.to_container(config.model) == {"nms_threshold": 0.3}
    with pytest.raises(
        ValueError, match="unknown setting 'model.nms_treshold'; did you mean model.nms_threshold"
    ):
        compose("evaluate", [f"checkpoint={path}", "model.nms_treshold=0.3"])
