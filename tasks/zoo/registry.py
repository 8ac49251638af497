"""The literal tables from a name to the code behind it: models, tasks, and their results.

A model is described by a *spec*: `{"name": "faster_rcnn", "backbone": {…}, …}`, its builder's plain
arguments. Configs, checkpoints and model files all hold a spec, and `build_model` is the one way from
a spec to a network, so a file never names code to import: only a key of `MODELS`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backbones.checks import check_types, suggest
from tasks.contracts import Model
from tasks.preprocessing import Preprocessing
from tasks.zoo.task_specs import TASK_SPECS

# "module:attribute", imported when asked for: the harness serves the tasks and imports none of them.
MODELS = {
    "classifier": "tasks.classification.classifier:classifier",
    "faster_rcnn": "tasks.detection.faster_rcnn:faster_rcnn",
    "retinanet": "tasks.detection.retinanet:retinanet",
    "fcos": "tasks.detection.fcos:fcos",
    "yolox": "tasks.detection.yolox:yolox",
    "mask_rcnn": "tasks.instance_segmentation.mask_rcnn:mask_rcnn",
    "semantic_fpn": "tasks.semantic_segmentation.segmenter:semantic_fpn",
    "deeplabv3": "tasks.semantic_segmentation.segmenter:deeplabv3",
}
TASKS = {name: spec.task for name, spec in TASK_SPECS.items()}
RESULTS = {name: spec.results for name, spec in TASK_SPECS.items()}  # for single pictures
VIEWS = {name: spec.views for name, spec in TASK_SPECS.items() if spec.views is not None}
TILES = {name: spec.tiles for name, spec in TASK_SPECS.items() if spec.tiles is not None}
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


def known_options(builder: Callable[..., Model]) -> dict[str, Any]:
    """What a spec may say to `builder`, with the defaults (`inspect.Parameter.empty` where there is none), in the
    order of files."""
    parameters = inspect.signature(builder).parameters.items()
    return {name: p.default for name, p in parameters if name not in DATA_ARGUMENTS}


def build_model(
    spec: Mapping[str, Any], *, num_classes: int, preprocessing: Preprocessing, pretrained: bool = False
) -> Model:
    """Builds the network that `spec` describes, for `num_classes` classes.

    A spec may come from a file, so building never looks for weights: no request is made and no path is opened.
    Training, whose spec the user wrote, says `pretrained` and has `backbone.pretrained` obeyed.

    Raises:
        ValueError: an unknown model, backbone or option (the message names the nearest), a value of a wrong type,
            or a `backbone.pretrained` that was not asked for.
    """
    backbone = spec.get("backbone")
    if not pretrained and isinstance(backbone, Mapping) and backbone.get("pretrained"):
        raise ValueError(
            f"backbone.pretrained={backbone['pretrained']!r:.80}: building a model from a spec never looks for weights"
            "; leave it out, or say build_model(…, pretrained=True)"
        )
    arguments = dict(spec)
    builder = model_builder(arguments.pop("name", None))
    known = inspect.signature(builder).parameters
    for option in arguments:
        if option not in known or option in DATA_ARGUMENTS:
            choices = known.keys() - set(DATA_ARGUMENTS)
            raise ValueError(f"model {spec['name']} has no option {option!r}; {suggest(option, choices)}")
    check_types("model.", builder, arguments)
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
    return for_objects(VIEWS, settings, model.header.task)(model, scales=scales, flip=flip)


def for_objects(table: Mapping[str, str], setting: str, task: str) -> Any:
    """What `table` holds for `task`; ValueError, naming the `setting` that asked for it, where that is nothing."""
    if task not in table:
        raise ValueError(
            f"{setting}: this works where objects are found (task={' or task='.join(table)}), and the model is for "
            f"task={task}; leave it out"
        )
    return lookup(table, "task", task)
