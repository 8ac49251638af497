"""What we learn from feature maps: detection and its relatives, on one training harness.

`train`, `evaluate`, `load_model` and `load_predictor` are all that most programs need; `tasks.data.open` opens a data
set. Importing this costs nothing; each is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tasks import data as data
    from tasks.contracts import Model
    from tasks.export.runtime import Predictor as ExportedPredictor
    from tasks.harness.evaluate import Evaluation, evaluate
    from tasks.harness.settings import (
        CheckpointSettings,
        EvaluateSettings,
        LoaderSettings,
        MetricSettings,
        OptimizerSettings,
        ScheduleSettings,
        TrainerSettings,
        TrainSettings,
    )
    from tasks.harness.start import recipe_settings
    from tasks.harness.train import Run, train
    from tasks.inference.predictor import Predictor

__all__ = [
    "CheckpointSettings",
    "EvaluateSettings",
    "Evaluation",
    "LoaderSettings",
    "MetricSettings",
    "OptimizerSettings",
    "Run",
    "ScheduleSettings",
    "TrainSettings",
    "TrainerSettings",
    "data",
    "evaluate",
    "load_model",
    "load_predictor",
    "published_predictor",
    "recipe_settings",
    "train",
]

_HOMES = {
    "tasks.harness.train": ("Run", "train"),
    "tasks.harness.evaluate": ("Evaluation", "evaluate"),
    "tasks.harness.start": ("recipe_settings",),
    "tasks.harness.settings": (
        "CheckpointSettings",
        "EvaluateSettings",
        "LoaderSettings",
        "MetricSettings",
        "OptimizerSettings",
        "ScheduleSettings",
        "TrainSettings",
        "TrainerSettings",
    ),
}
"""Modules, and what is imported from each when it is asked for."""


def __getattr__(name: str) -> Any:
    if name == "data":
        return importlib.import_module("tasks.data")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'tasks' has no attribute {name!r}")


def load_model(path: str | Path, settings: dict[str, Any] | None = None) -> Model:
    """The model in a model file (`.safetensors`) or checkpoint (`.ckpt`), in evaluation mode on the CPU.

    Nothing but the path is needed; `settings` are others than the file's, as `{"nms_threshold": 0.6}`.
    `model.header` says what it is: task, class names, preprocessing.
    Raises `ValueError` or `FileNotFoundError` with what to do when the file is neither.
    """
    from tasks.zoo.model_file import load_model

    return load_model(path, settings)


def load_predictor(path: str | Path, **options: Any) -> Predictor | ExportedPredictor:
    """A callable that takes an image (or a list) and returns what the model in the file at `path` finds.

    Options are those of `tasks.inference.predictor.Predictor`: device, precision, score_threshold, batch_size,
    and `settings` as in `load_model`. Of an exported `.onnx` it is `tasks.export.runtime.Predictor`, with its options.
    """
    if str(path).endswith(".onnx"):
        from tasks.export.runtime import Predictor as ExportedPredictor

        return ExportedPredictor(path, **options)
    from tasks.inference.predictor import Predictor

    return Predictor.load(path, **options)


def published_predictor(model: str, pretrained: bool | str = True, **options: Any) -> Predictor:
    """The same for published weights, such as those of `published_predictor("faster_rcnn", "COCO_V2")`.

    `tasks.zoo.pretrained.PUBLISHED` lists them; they are downloaded once and verified.
    """
    from tasks.inference.predictor import Predictor
    from tasks.zoo.pretrained import published_model

    return Predictor(published_model({"name": model}, pretrained), **options)
