"""The plain loops of tests/peers run, on the embedded scenes."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_torchvision_rcnn(task: str) -> None:
    command = [sys.executable, "tests/peers/torchvision_rcnn.py", f"task={task}", "loader.batch_size=1"]
    settings = [
        "trainer.max_time=00:00:00:01",
        "data.num_val=2",
        "backbone.name=resnet18",
        "pyramid.channels=16",
    ]
    settings += ["model.anchor_sizes=[16,32,64,96,128]", "model.rpn_pre_nms_train=50", "model.box_samples=8"]
    settings += ["model.rpn_post_nms_train=20"]
    result = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "AP " in result.stdout.splitlines()[-1]
