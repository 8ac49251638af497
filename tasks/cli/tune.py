"""`vertebra tune`: thresholds and calibration of a model, stored in its file."""

from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.output import Found, say_result
from tasks.cli.settings import settings_of
from tasks.cli.terminal import Terminal, prepare
from tasks.harness.settings import EvaluateSettings
from tasks.harness.tuning import in_words
from tasks.harness.tuning import tune as tune_model
from tasks.zoo.model_file import read


def tune(config: DictConfig) -> Found:
    """Fits those of `config.checkpoint` on a split of `config.data`, and writes the model file."""
    if config.checkpoint is None:
        raise ValueError("checkpoint is not set; give checkpoint=FILE, a model file")
    settings = settings_of(EvaluateSettings, config)
    prepare(settings.trainer.device)
    point = tune_model(
        config.checkpoint, data_of(config), split=config.split, goal=config.goal, wanted=config.wanted,
        out=config.out, settings=settings, reporter=Terminal(),
    )  # fmt: skip
    header, _ = read(config.checkpoint)
    file = config.out or config.checkpoint
    say_result(f"\n{in_words(point, header.class_names)}\nstored in {file}")
    thresholds = dict(zip(header.class_names, point.thresholds, strict=True))
    return Found({"file": file, "thresholds": thresholds, **point.about})
