"""The literal table of tasks and their models, from a name to the code behind it.

A model is described by a *spec*: `{"name": "faster_rcnn", "backbone": {…}, …}`, its builder's plain
arguments. Configs, checkpoints and model files all hold a spec, and `build_model` is the one way from
a spec to a network, so a file never names code to import: only a key of `MODELS`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backbones.checks import suggest
from tasks.contracts import Model
from tasks.preprocessing import Preprocessing


@dataclass(frozen=True)
class ModelSpec:
    """One model; strings are "module:attribute", imported when asked for."""

    builder: str
    """The function that builds it."""
    load_weights: str | None = None
    """Called with (model, state dict of torchvision's model of its kind, category_ids=…), where weights of whole models
    are published (`zoo.pretrained.PUBLISHED`)."""


@dataclass(frozen=True)
class TaskSpec:
    """One task: what of it the parts that serve all tasks ask for. Strings as in `ModelSpec`."""

    task: str
    """The `Task` subclass; it says its metric and what it needs of data."""
    models: Mapping[str, ModelSpec]
    """By name."""
    results: str
    """Called with (predictions in pixels of the batch, batch, class names): a result for each image."""
    views: str | None = None
    """A model around its models that looks at several views of each image."""
    tiles: str | None = None
    """Results for one large picture from those for its tiles."""
    published: str | None = None
    """Builds a model out of a backbone's published weights (`classification.published.published_classifier`)."""


TASK_SPECS = {
    "classification": TaskSpec(
        task="tasks.classification.task:ClassificationTask",
        models={"classifier": ModelSpec("tasks.classification.classifier:classifier")},
        results="tasks.classification.result:predicted_results",
        published="tasks.classification.published:published_classifier",
    ),
    "detection": TaskSpec(
        task="tasks.detection.task:DetectionTask",
        models={
            "faster_rcnn": ModelSpec(
                "tasks.detection.faster_rcnn:faster_rcnn",
                "tasks.detection.torchvision_weights:load_torchvision_weights",
            ),
            "retinanet": ModelSpec(
                "tasks.detection.retinanet:retinanet",
                "tasks.detection.torchvision_dense_weights:load_torchvision_dense_weights",
            ),
            "fcos": ModelSpec(
                "tasks.detection.fcos:fcos",
                "tasks.detection.torchvision_dense_weights:load_torchvision_dense_weights",
            ),
            "yolox": ModelSpec("tasks.detection.yolox:yolox"),
        },
        results="tasks.detection.result:predicted_results",
        views="tasks.detection.views:ManyViews",
        tiles="tasks.detection.tiles:find_in_tiles",
    ),
    "instance_segmentation": TaskSpec(
        task="tasks.instance_segmentation.task:InstanceSegmentationTask",
        models={
            "mask_rcnn": ModelSpec(
                "tasks.instance_segmentation.mask_rcnn:mask_rcnn",
                "tasks.instance_segmentation.torchvision_weights:load_torchvision_weights",
            ),
        },
        results="tasks.instance_segmentation.result:predicted_results",
        views="tasks.detection.views:ManyViews",
        tiles="tasks.detection.tiles:find_in_tiles",
    ),
    "semantic_segmentation": TaskSpec(
        task="tasks.semantic_segmentation.task:SemanticSegmentationTask",
        models={
            "semantic_fpn": ModelSpec("tasks.semantic_segmentation.segmenter:semantic_fpn"),
            "deeplabv3": ModelSpec("tasks.semantic_segmentation.segmenter:deeplabv3"),
        },
        results="tasks.semantic_segmentation.result:predicted_results",
    ),
}
"""The one table of tasks."""
TASKS = {name: spec.task for name, spec in TASK_SPECS.items()}
"""Task to its `Task` subclass, for `lookup`."""
MODELS = {name: model.builder for spec in TASK_SPECS.values() for name, model in spec.models.items()}
"""Model of any task to its builder."""
PREDICTION_SETTINGS = (  # options that may change after training: they choose among what the network finds
    "score_threshold",
    "nms_threshold",
    "max_detections",
    "class_agnostic_nms",
    "soft_nms_sigma",
    "pre_nms",
    "rpn_pre_nms_test",
    "rpn_post_nms_test",
    "rpn_nms_threshold",
)
DATA_ARGUMENTS = ("num_classes", "preprocessing")  # come from the data, not from a spec


def lookup(table: Mapping[str, str], kind: str, name: object) -> Any:
    """What `table` holds under `name`; raises `ValueError` with the nearest names when nothing is."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"unknown {kind} {name!r}; {suggest(str(name), table)}")
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def model_builder(name: object) -> Callable[..., Model]:
    """The function that builds the model called `name`."""
    return lookup(MODELS, "model", name)


def build_model(spec: Mapping[str, Any], *, num_classes: int, preprocessing: Preprocessing) -> Model:
    """Builds the network that `spec` describes, for `num_classes` classes.

    Raises:
        ValueError: an unknown model, backbone or option; the message names the nearest.
    """
    arguments = dict(spec)
    builder = model_builder(arguments.pop("name", None))
    known = inspect.signature(builder).parameters
    for option in arguments:
        if option not in known or option in DATA_ARGUMENTS:
            choices = known.keys() - set(DATA_ARGUMENTS)
            raise ValueError(f"model {spec['name']} has no option {option!r}; {suggest(option, choices)}")
    return builder(num_classes=num_classes, preprocessing=preprocessing, **arguments)


def with_settings(spec: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with other `PREDICTION_SETTINGS`; raises `ValueError` for anything that this model has not.

    A `name` among them, as the choice of a task brings one, says nothing.
    """
    settings = {option: value for option, value in settings.items() if option != "name"}
    known = inspect.signature(model_builder(spec.get("name"))).parameters.keys() & set(PREDICTION_SETTINGS)
    for option in settings:
        if option not in known:
            choices = ", ".join(sorted(known)) or "nothing"
            raise ValueError(
                f"model.{option} cannot be set for a trained {spec['name']}; what can be set is {choices}"
            )
    return {**spec, **settings}


def resolved_spec(spec: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """`spec` with every default written out, so that a file keeps its meaning when a default changes.

    The backbone and pyramid are described by the built `model`, without any pretrained weights.
    """
    parameters = inspect.signature(model_builder(spec["name"])).parameters.values()
    defaults = {
        p.name: list(p.default) if isinstance(p.default, tuple) else p.default
        for p in parameters
        if p.name not in DATA_ARGUMENTS and p.default is not inspect.Parameter.empty
    }
    extractor = model.backbone.spec
    assert isinstance(extractor, dict)
    parts = extractor if "pyramid" in extractor else {"backbone": extractor, "pyramid": None}
    return {**defaults, **spec, **parts}


def with_views(model: Model, scales: Sequence[float], flip: bool) -> Model:
    """`model`, or one around it that looks at several views of each image (`tasks.detection.views.ManyViews`)."""
    scales = [float(scale) for scale in scales]
    if scales == [1.0] and not flip:
        return model
    settings = f"scales={scales} flip={str(flip).lower()}"
    return for_objects("views", settings, model.header.task)(model, scales=scales, flip=flip)


def for_objects(part: Literal["views", "tiles"], setting: str, task: str) -> Any:
    """What the spec of `task` has as `part`; ValueError, naming the `setting` that asked for it, where it has none."""
    table = {name: found for name, spec in TASK_SPECS.items() if (found := getattr(spec, part)) is not None}
    if task not in table:
        raise ValueError(
            f"{setting}: this works where objects are found (task={' or task='.join(table)}), and the model is for "
            f"task={task}; leave it out"
        )
    return lookup(table, "task", task)


def task_of(model: str) -> str:
    """The task that the model called `model` is for."""
    return next(name for name, spec in TASK_SPECS.items() if model in spec.models)


def weights_loader(model: str) -> Callable[..., None]:
    """What loads published weights into the model called `model`, which has some."""
    found = TASK_SPECS[task_of(model)].models[model].load_weights
    return lookup({model: found} if found else {}, "model with published weights", model)
