"""The published weights that a configuration names by `model` or `backbone` and `pretrained`."""

from collections.abc import Sequence

from omegaconf import DictConfig

from tasks.cli.nodes import plain
from tasks.cli.settings import spec_of
from tasks.contracts import Model
from tasks.preprocessing import Preprocessing
from tasks.zoo.pretrained import PUBLISHED, published_model
from tasks.zoo.registry import lookup, task_of
from tasks.zoo.task_specs import TASK_SPECS


def published_model_of(config: DictConfig, class_names: Sequence[str] | None = None) -> Model:
    """A whole model, of the classes `class_names`; None for all of its own."""
    if "name" not in config.get("model", {}):
        raise ValueError(
            f"pretrained={config.pretrained} needs the model that it is of; give a task as well, and model= for "
            f"another than its usual one: {', '.join(f'task={task_of(name)} model={name}' for name in PUBLISHED)}"
        )
    preprocessing = Preprocessing(**plain(config.get("preprocessing", {})))
    return published_model(
        spec_of(config), config.pretrained, preprocessing=preprocessing, class_names=class_names
    )


def published_on_backbone(config: DictConfig, task: str, class_names: Sequence[str]) -> Model:
    """A model of `task` out of a backbone's weights, of the classes `class_names`."""
    build = lookup({task: TASK_SPECS[task].published or ""}, "task", task)
    return build(plain(config.backbone), Preprocessing(**plain(config.preprocessing)), list(class_names))
