"""Every shipped configuration composes, and what it names exists and takes what it is given."""

from dataclasses import fields

import pytest
from omegaconf import DictConfig, OmegaConf

import backbones
from tasks.cli.compose import compose
from tasks.cli.folders import CONFIGS, config_groups
from tasks.cli.settings import TRAINER
from tasks.cli.targets import arguments
from tasks.harness.settings import TrainerSettings
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import TASKS, known_options, lookup, model_builder

CHOICES = [
    (group, choice)
    for group, choices in config_groups().items()
    for choice in choices
    if (group, choice) != ("data", "auto")  # becomes another, by what lies in a folder
]
ROOTS = [path.stem for path in CONFIGS.glob("*.yaml")]
NEEDED = {
    "checkpoint": "x",
    "repo": "x",
    "source": "x",
    "to": "coco",
    "out": "x",
    "networks": "x",
    "runs": "x",
}
TASK_OF = {  # of data sets and models that are not for detection
    **dict.fromkeys(("cifar10", "image_folder", "single_digits", "classifier"), "classification"),
    **dict.fromkeys(("cityscapes", "mask_png", "deeplabv3", "semantic_fpn"), "semantic_segmentation"),
    "mask_rcnn": "instance_segmentation",
}
MODELS = config_groups()["model"]


def nodes(config: DictConfig) -> list[DictConfig]:
    """Every mapping of the tree that names a target."""
    found = [config] if "_target_" in config else []
    for key in config:
        value = None if OmegaConf.is_missing(config, key) else config._get_node(key)
        items = list(value) if value is not None and OmegaConf.is_list(value) else [value]
        for item in items:
            if isinstance(item, DictConfig) and not item._is_none():
                found += nodes(item)
    return found


def check(config: DictConfig) -> None:
    for node in nodes(config):
        target = str(node._target_)
        parameters = (
            {field.name for field in fields(TrainerSettings)} if target == TRAINER else arguments(target)
        )
        unknown = set(node) - {"_target_", "_partial_"} - set(parameters)
        assert not unknown, f"{node._target_} takes no {unknown}"
    if "model" in config and "name" in config.model:
        assert set(config.model) - {"name"} <= set(known_options(model_builder(config.model.name)))
        extractor = backbones.create(**{**config.backbone, "pretrained": False})  # nothing is downloaded
        assert config.pyramid is None or backbones.create_pyramid(extractor, **config.pyramid)
        assert lookup(TASKS, "task", config.task.name)
        Preprocessing(**config.preprocessing)


@pytest.mark.parametrize("root", ROOTS)
def test_every_root_composes(root: str) -> None:
    needed = [
        f"{key}={value}"
        for key, value in NEEDED.items()
        if f"{key}: ???" in (CONFIGS / f"{root}.yaml").read_text()
        or (root, key) in (("predict", "source"), ("next", "source"), ("export", "checkpoint"))
    ]
    if "- data: coco" in (CONFIGS / f"{root}.yaml").read_text():
        needed.append("data.root=x")
    check(compose(root, needed))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes(group: str, choice: str) -> None:
    root = "evaluate" if (group, choice) == ("trainer", "evaluate") else "train"
    words = [f"{group}={choice}", *(["checkpoint=x"] if root == "evaluate" else [])]
    if group == "recipe":
        words += [f"task={task}" for task in TASKS if choice.startswith(f"{task}_")]
        words += [f"model={model}" for model in MODELS if choice.endswith(f"_{model}")]
    if choice in TASK_OF:
        words.append(f"task={TASK_OF[choice]}")
    if group == "data":
        text = (CONFIGS / group / f"{choice}.yaml").read_text()
        words += [f"data.{key}=x" for key in ("root", "file") if f"{key}: ???" in text]
    if group == "experiment":  # none is of embedded data
        words.append("data.root=x")
    check(compose(root, words))


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_is_a_lab_note(path) -> None:
    header = "".join(
        line for line in path.read_text().splitlines(keepends=True) if line.startswith("#")
    ).lower()
    for word in ("command", "source", "hardware", "measured"):
        assert word in header, f"{path.name}: the header says nothing of its {word}"
