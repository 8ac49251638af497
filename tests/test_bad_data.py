"""Training on a data set with every kind of issue: it stops before the first step, or fixes and goes on."""

import csv
import math
from pathlib import Path

import pytest

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.data.quality.policy import BadData
from tests.tasks.data.defects_on_disk import OPTIONS, write_defects

SMALL = [
    "task=instance_segmentation", "data=coco", "pretrained=false", "backbone=resnet18", "pyramid.channels=16",
    "model.mask_width=16",
    "preprocessing.short_side=64", "preprocessing.max_size=96", "model.anchor_sizes=[8,16,24,32,48]",
    "model.rpn_pre_nms_train=100", "model.rpn_post_nms_train=100", "model.rpn_pre_nms_test=50",
    "model.rpn_post_nms_test=50", "model.box_representation_size=32", "loader.batch_size=2", "precision=32-true",
    "trainer.accelerator=cpu", "trainer.log_every_n_steps=1",
    *(f"data.{key}={value}" for key, value in OPTIONS.items()),
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("defects")
    write_defects(folder)
    return folder


@pytest.mark.parametrize("steps", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_mended_data_trains_with_finite_losses(root: Path, steps: int, tmp_path: Path) -> None:
    once = [
        f"trainer.val_check_interval={steps}",
        "trainer.check_val_every_n_epoch=null",
        "trainer.max_epochs=-1",
    ]
    words = [*SMALL, *once, f"data.root={root}", "data.on_invalid=fix", f"trainer.max_steps={steps}"]
    train(compose("train", [*words, f"run_dir={tmp_path / 'run'}"]))
    with (tmp_path / "run/metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == steps
    assert all(map(math.isfinite, losses))


def test_bad_data_stops_before_the_first_step(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData) as caught:
        train(compose("train", [*SMALL, f"data.root={root}", f"run_dir={tmp_path / 'run'}"]))
    assert len(caught.value.findings) == 23
    assert not (tmp_path / "run").exists()
