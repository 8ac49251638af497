"""`vertebra predict`: pictures with what a model finds in them."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from tasks.cli.published import published_model_of
from tasks.cli.settings import settings_of
from tasks.devices import keep_freed_memory
from tasks.folders import new_folder
from tasks.harness.settings import PredictSettings
from tasks.inference.folder import find_pictures, predict_pictures
from tasks.inference.predictor import Predictor
from tasks.metrics.operating_point import KEY
from tasks.zoo.model_file import load_model

USUAL_THRESHOLD = 0.5
"""Of a model file that knows no better."""


def predict(config: DictConfig) -> int:
    """Applies a model to `config.source`; the exit status, 1 when some picture could not be read."""
    settings = settings_of(PredictSettings, config)
    pictures = find_pictures(config.source)
    if (config.checkpoint is None) == (not config.pretrained):
        raise ValueError(
            "checkpoint is not set; give checkpoint=FILE, a model file or checkpoint, or published weights: "
            "task=detection model=faster_rcnn pretrained=COCO_V2"
            if config.checkpoint is None
            else f"give checkpoint=FILE or pretrained={config.pretrained}, not both"
        )
    options = {key: value for key, value in vars(settings).items() if key != "model"}
    model = (
        published_model_of(config)
        if config.checkpoint is None
        else load_model(config.checkpoint, settings.model)
    )
    if settings.score_threshold is None and KEY not in model.header.provenance:
        options["score_threshold"] = USUAL_THRESHOLD
    predictor = Predictor(model, **options)
    keep_freed_memory(predictor.device)
    output = new_folder("predict") if config.output is None else Path(config.output)
    name = str(config.checkpoint or f"{config.model.name} {config.pretrained}")
    unreadable = predict_pictures(predictor, pictures, output, model=name, say=print)
    for failure in unreadable:
        print(f"error: {failure['error']}", file=sys.stderr)
    return 1 if unreadable else 0
