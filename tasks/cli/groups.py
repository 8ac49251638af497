"""What Hydra composes that stands in Python: tasks, models, recipes, optimisers, schedules, and defaults of settings.

Importing this costs nothing.
"""

import ast
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.data.augmentation.named import NAMED
from tasks.export.settings import ExportSettings
from tasks.harness.settings import (
    OPTIMIZERS,
    REFERENCE_BATCH_SIZES,
    SCHEDULES,
    CheckpointSettings,
    EvaluateSettings,
    LoaderSettings,
    PredictSettings,
    TrainerSettings,
    TrainSettings,
)
from tasks.zoo.task_specs import MODEL_SPECS, TASK_SPECS

OWN_PACKAGE = ("augmentation", "trainer")
"""Groups that files build on."""


@cache
def python_groups() -> dict[str, dict[str, dict[str, Any]]]:
    """Groups of configurations that stand in Python, each choice as nested values from the root on; those of
    `OWN_PACKAGE` from there on."""
    rates = {name: {"reference_batch_size": images} for name, images in REFERENCE_BATCH_SIZES.items()}
    return {
        "task": {
            name: {
                "defaults": [
                    {"/model": spec.model},
                    *(
                        [] if spec.data == "digits" else [{"override /data": spec.data}]
                    ),  # as configs/train.yaml has
                    "_self_",
                ],
                "task": {"name": name},
                **({} if spec.pyramid else {"pyramid": None}),
            }
            for name, spec in TASK_SPECS.items()
        },
        "model": {name: {"model": {"name": name}, **model.parts} for name, model in MODEL_SPECS.items()},
        "recipe": {
            f"{name}_{key}": _interpolated(recipe)
            for name, spec in TASK_SPECS.items()
            for key, recipe in spec.recipes.items()
        },
        "optimizer": {
            name: {
                "optimizer": {"_target_": o.name, "_partial_": True, "lr": o.lr, **o.options},
                **rates.get(name, {}),
            }
            for name, o in OPTIMIZERS.items()
        },
        "schedule": {
            name: {"schedule": {"_target_": f"tasks.harness.optim.{name}", "_partial_": True}}
            for name in SCHEDULES
        },
        "augmentation": {name: {"transforms": nodes} for name, nodes in NAMED.items()},
        "trainer": {
            "default": {
                "_target_": "lightning.pytorch.Trainer",
                **_defaults(TrainerSettings, "max_epochs", "gradient_clip_val", "log_every_n_steps"),
            }
        },
    }


def roots() -> dict[str, dict[str, Any]]:
    """The defaults of settings that no group gives, by their names in the defaults lists of `configs/*.yaml`."""
    loader = _defaults(LoaderSettings, "batch_size", "num_workers")
    return {
        "train_settings": {
            "backbone": {"name": "resnet50", "pretrained": False},
            "pyramid": {"name": "fpn"},
            "preprocessing": {},
            "loader": loader,
            "checkpointing": {},
            "metric": {},
            **_scalars(TrainSettings),
            "run_dir": None,
        },
        "evaluate_settings": {
            "checkpoint": None,
            "pretrained": False,
            "detections": None,
            "model": {},
            "split": "val",
            "backbone": {"name": "resnet50", "pretrained": "${pretrained}"},
            "preprocessing": {},
            "loader": loader,
            "metric": {},
            **_scalars(EvaluateSettings),
            "run_dir": None,
        },
        "predict_settings": {
            "checkpoint": None,
            "pretrained": None,
            "source": "???",
            "output": None,
            "model": {},
            **_scalars(PredictSettings),
        },
        "export_settings": {"checkpoint": "???", "output": None, "model": {}, **_scalars(ExportSettings)},
    }


def _scalars(kind: type) -> dict[str, Any]:
    """Fields of settings whose defaults are plain values."""
    plain = (str, int, float, bool, type(None), tuple)
    return {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in fields(kind)
        if isinstance(field.default, plain) and field.name not in ("loggers", "augmentation")
    }


def _defaults(kind: type, *names: str) -> dict[str, Any]:
    return {field.name: field.default for field in fields(kind) if field.name in names}


def _interpolated(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in which one setting follows another by Hydra's means, so that the words of the command line count."""
    values = {key: dict(v) if isinstance(v, Mapping) else v for key, v in recipe.items()}
    trainer = values.get("trainer")
    if isinstance(trainer, dict) and trainer.get("val_check_interval") == "max_steps":
        trainer["val_check_interval"] = "${trainer.max_steps}"
    return values


DOCUMENTED = {
    "train": TrainSettings,
    "show_data": TrainSettings,
    "evaluate": EvaluateSettings,
    "tune": EvaluateSettings,
    "predict": PredictSettings,
    "next": PredictSettings,
    "export": ExportSettings,
}
"""Commands and the settings that stand in Python."""

BESIDE = {"augmentation", "loggers", "optimizer", "schedule", "preprocessing", "model", "task", "metric"}
"""Settings that are groups of configurations, or arguments of what their node names."""
WORDS = {"None": "null", "True": "true", "False": "false"}


def settings_text(config_name: str) -> str:
    """The settings of a command that stand in Python, a line each with its default and what it says; those inside of
    other settings below them."""
    kind = DOCUMENTED.get(config_name)
    return "" if kind is None else "\n".join(_lines(kind, ""))


NETWORK_COMMANDS = ("train", "show_data", "summarize")
"""Commands that take a backbone by its name."""


def backbones_text() -> str:
    """Names of backbones, read from the file of their table, as importing it takes seconds."""
    path = Path(__file__).resolve().parents[2] / "backbones" / "create.py"
    table = next(
        node.value
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "BUILDERS"
    )
    assert isinstance(table, ast.Dict)
    names = [str(key.value) for key in table.keys if isinstance(key, ast.Constant)]
    ours = textwrap.fill("|".join(names).replace("|", "| ")).replace("| ", "|")
    return (
        f"Backbones, as backbone=resnet18:\n{textwrap.indent(ours, '  ')}\n"
        "and the classifiers of torchvision and timm by their names, as densenet121, efficientnet_b0, convnext_tiny, "
        "swin_t,\nvit_small_patch16_224"
    )


def _lines(kind: type, prefix: str) -> list[str]:
    documents = field_documents(kind)
    nested = {"trainer": TrainerSettings, "loader": LoaderSettings, "checkpointing": CheckpointSettings}
    lines = []
    for field in fields(kind):
        if field.name in BESIDE:
            continue
        if field.name in nested and not prefix:
            lines += _lines(nested[field.name], f"{field.name}.")
            continue
        value = WORDS.get(str(field.default), field.default)
        lines.append(f"{f'{prefix}{field.name}={value}':<42} {documents.get(field.name, '')}")
    return lines


def field_documents(kind: type) -> dict[str, str]:
    """The strings below the fields of a dataclass, read from its file."""
    tree = ast.parse(Path(str(sys.modules[kind.__module__].__file__)).read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__)
    return {
        field.target.id: " ".join(str(document.value.value).split())
        for field, document in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(document, ast.Expr)
        and isinstance(document.value, ast.Constant)
    }
