"""What we learn from feature maps: detection and its relatives, on one training harness.

Importing this costs nothing; each function imports what it needs when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.contracts import Model
    from tasks.inference.predictor import Predictor

__all__ = ["load_model", "load_predictor", "published_predictor"]


def load_model(path: str | Path, settings: dict[str, Any] | None = None) -> Model:
    """The model in a model file (`.safetensors`) or checkpoint (`.ckpt`), in evaluation mode on the CPU.

    Nothing but the path is needed; `settings` are others than the file's, as `{"nms_threshold": 0.6}`.
    `model.header` says what it is: task, class names, preprocessing.
    Raises `ValueError` or `FileNotFoundError` with what to do when the file is neither.
    """
    from tasks.zoo.model_file import load_model

    return load_model(path, settings)


def load_predictor(path: str | Path, **options: Any) -> Predictor:
    """A callable that takes an image (or a list) and returns what the model in the file at `path` finds.

    Options are those of `tasks.inference.predictor.Predictor`: device, precision, score_threshold, batch_size,
    and `settings` as in `load_model`.
    """
    from tasks.inference.predictor import Predictor

    return Predictor.load(path, **options)


def published_predictor(model: str, pretrained: bool | str = True, **options: Any) -> Predictor:
    """The same for published weights, such as those of `published_predictor("faster_rcnn", "COCO_V2")`.

    `tasks.zoo.pretrained.PUBLISHED` lists them; they are downloaded once and verified.
    """
    from tasks.inference.predictor import Predictor
    from tasks.zoo.pretrained import published_model

    return Predictor(published_model({"name": model}, pretrained), **options)
