"""The programs of tests/peers run: plain loops on embedded scenes, and TIDE's package beside our split of errors."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "tasks" / "metrics"))
from simulated_detector import simulated_detections, simulated_truth

from tasks.metrics.average_precision import Predictions
from tasks.metrics.outcomes import read_outcomes
from tests.peers import tide


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_torchvision_rcnn(task: str, tmp_path: Path) -> None:
    command = [sys.executable, "tests/peers/torchvision_rcnn.py", f"task={task}", "loader.batch_size=1"]
    settings = [
        "trainer.max_time=00:00:00:01",
        "data.num_val=2",
        "backbone.name=resnet18",
        "pyramid.channels=16",
    ]
    settings += ["model.anchor_sizes=[16,32,64,96,128]", "model.rpn_pre_nms_train=50", "model.box_samples=8"]
    settings += ["model.rpn_post_nms_train=20", "--folder", str(tmp_path)]
    result = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "AP " in result.stdout.splitlines()[-1]
    assert read_outcomes(tmp_path).outcomes.num_images == 2


@pytest.mark.skipif(
    importlib.util.find_spec("tidecv") is None, reason="tests/peers/tide.py says how to install it"
)
def test_errors_cost_what_the_published_package_says() -> None:
    rng = np.random.default_rng(3)
    truth = simulated_truth(rng, 60, 3)
    found = simulated_detections(rng, truth)
    wrong = rng.random(len(found.categories)) < 0.1
    found.categories[wrong] = (found.categories[wrong] + 1) % 3
    twice = np.sort(np.concatenate([np.arange(len(wrong)), np.flatnonzero(rng.random(len(wrong)) < 0.2)]))
    scores = found.scores[twice] * rng.uniform(0.5, 1, len(twice))
    found = Predictions(found.images[twice], found.categories[twice], found.boxes[twice], scores)
    ours, theirs = tide.ours(truth, found), tide.theirs(truth, found)
    assert ours["AP50"] > 20 and min(ours.values()) > 0
    assert ours == pytest.approx(theirs, abs=tide.LIMIT)
