"""`vertebra evaluate`: the numbers of a trained or published model."""

from pathlib import Path

from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.nodes import plain
from tasks.cli.output import Found, files_of
from tasks.cli.published import published_model_of, published_on_backbone
from tasks.cli.settings import settings_of
from tasks.cli.terminal import Terminal, folder_of_run, prepare
from tasks.contracts import Model
from tasks.data.sources import Source
from tasks.harness.evaluate import Evaluation
from tasks.harness.evaluate import evaluate as evaluate_model
from tasks.harness.score import score_results
from tasks.harness.settings import EvaluateSettings
from tasks.zoo.model_file import read
from tasks.zoo.pretrained import PUBLISHED
from tasks.zoo.registry import task_of
from tasks.zoo.task_specs import TASK_SPECS


def evaluate(config: DictConfig) -> Found:
    """Scores the model in `config.checkpoint`, or published weights, on a split of `config.data`, and writes
    what it found."""
    settings = settings_of(EvaluateSettings, config)
    prepare(settings.trainer.device)
    source = data_of(config)
    if config.detections is not None:
        return to_found(score(config, source, settings), config.split)
    task = config.task.name if "task" in config else None
    if config.checkpoint is not None:
        if config.backbone.pretrained:
            raise ValueError("give checkpoint=FILE or pretrained=…, not both")
        if task is not None and (known := read(config.checkpoint)[0].task) != task:
            raise ValueError(
                f"{config.checkpoint} is a model for task={known}, not for task={task}; leave out "
                "task=, which the file knows itself"
            )
    model = config.checkpoint if config.checkpoint is not None else _published(config, source, task)
    name = f"evaluate-{Path(config.checkpoint or config.backbone.name).stem}"
    with folder_of_run(config, name) as folder:
        found = evaluate_model(
            model, source, split=config.split, settings=settings, folder=folder, reporter=Terminal()
        )
    return to_found(found, config.split)


def to_found(found: Evaluation, split: str) -> Found:
    """What `--json` prints of an evaluation."""
    assert found.folder is not None
    return Found(
        {"split": split, "numbers": found.numbers, "intervals": found.intervals, **files_of(found.folder)}
    )


def score(config: DictConfig, source: Source, settings: EvaluateSettings) -> Evaluation:
    """Scores the file in `config.detections`, for which no model is needed."""
    if config.checkpoint is not None or config.backbone.pretrained:
        raise ValueError(
            f"give detections={config.detections} or a model, not both; the file is scored as it is"
        )
    backend = settings.metric.backend or "auto"
    with folder_of_run(config, f"evaluate-{Path(config.detections).stem}") as folder:
        return score_results(
            config.detections, source, split=config.split, backend=backend, folder=folder, reporter=Terminal()
        )


def _published(config: DictConfig, source: Source, task: str | None) -> Model:
    """The model of published weights that `config` names, for the classes of `source`."""
    pretrained = plain(config.backbone)["pretrained"]
    if not pretrained:
        raise ValueError(
            "there is no model to score; give checkpoint=FILE, a model file or checkpoint, or published weights: "
            "task=classification backbone=resnet50 pretrained=true, or task=detection pretrained=COCO_V2; or "
            "detections=FILE, results in COCO's format"
        )
    of_whole_models = {task_of(name) for name in PUBLISHED}
    if task in of_whole_models:
        return published_model_of(config, class_names=source.class_names)
    if task is None or TASK_SPECS[task].published is None:
        scored = [name for name, spec in TASK_SPECS.items() if spec.published or name in of_whole_models]
        raise ValueError(
            f"pretrained={pretrained}: published weights are scored with task={' or task='.join(scored)}; for other "
            "tasks train a model and give checkpoint=FILE"
        )
    return published_on_backbone(config, task, source.class_names)
