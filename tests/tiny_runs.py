"""Settings of runs that take seconds, one for each task and detector, and what they leave."""

import csv
from pathlib import Path
from typing import Any

import torch

from tasks.cli.compose import compose
from tasks.cli.terminal import prepare
from tasks.cli.train import train

NETWORK = [
    "backbone=resnet", "backbone.block=basic", "backbone.blocks=[1,1,1,1]", "backbone.widths=[16,32,64,128]",
    "precision=32-true", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1",
]  # fmt: skip
IMAGES = ["data.num_train=40", "data.num_val=4", "data.num_test=1"]
SCENES = [
    *NETWORK,
    *IMAGES,
    "data.size=96",
    "preprocessing.short_side=96",
    "loader.batch_size=4",
    "pyramid.channels=16",
]
FEW_PROPOSALS = [
    "model.rpn_post_nms_train=50",
    "model.rpn_post_nms_test=20",
    "model.box_representation_size=32",
]
TINY = {
    "classification": ["task=classification", *NETWORK, *IMAGES, "loader.batch_size=4"],
    "detection": ["task=detection", *SCENES, *FEW_PROPOSALS],
    "instance_segmentation": [
        "task=instance_segmentation", *SCENES, *FEW_PROPOSALS, "model.mask_width=8", "model.mask_layers=1",
    ],
    "semantic_segmentation": ["task=semantic_segmentation", *SCENES, "model.channels=8"],
    "cascade": ["task=detection", *SCENES, *FEW_PROPOSALS, "model.cascade=[0.5,0.6,0.7]"],
    "retinanet": ["task=detection", "model=retinanet", *SCENES, "model.head_layers=1"],
    "fcos": ["task=detection", "model=fcos", *SCENES, "model.head_layers=1"],
    "gfl": ["task=detection", "model=gfl", *SCENES, "model.head_layers=1", "model.assignment=task_aligned"],
    "yolox": ["task=detection", "model=yolox", *SCENES, "model.width=0.0625"],
}  # fmt: skip
TASKS = ("classification", "detection", "instance_segmentation", "semantic_segmentation")


def tiny_run(task: str, folder: Path, *words: str, steps: int = 4) -> Path:
    """Trains so many steps in this process and gives back `folder`, which holds the run."""
    train(compose("train", [*TINY[task], f"trainer.max_steps={steps}", f"run_dir={folder}", *words]))
    return folder


def quiet_lightning() -> None:
    """As the command line has it: what Lightning warns of is no news."""
    prepare("cpu")


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(folder: Path) -> list[dict[str, float]]:
    """Everything logged but how fast it went."""
    with open(folder / "metrics.csv", newline="") as file:
        found = [
            {k: float(v) for k, v in row.items() if v and not k.startswith("perf/")}
            for row in csv.DictReader(file)
        ]
    return [row for row in found if set(row) != {"step"}]
