"""The literal table of tasks and their models, from a name to the code behind it.

A model is described by a *spec*: `{"name": "faster_rcnn", "backbone": {…}, …}`, its builder's plain arguments and the
fields of its settings. Configs, checkpoints and model files all hold a spec, and `build_model` is the one way from a
spec to a network, so a file never names code to import: only a key of `MODELS`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, get_type_hints

from backbones.checks import check_type, check_types, suggest
from tasks.contracts import Model
from tasks.preprocessing import Preprocessing
from tasks.zoo.task_specs import MODEL_SPECS, TASK_SPECS

TASKS = {name: spec.task for name, spec in TASK_SPECS.items()}
"""Task to its `Task` subclass, for `lookup`."""
RESULTS = {name: spec.results for name, spec in TASK_SPECS.items()}
"""Task to its results for single pictures."""
MODELS = {name: model.builder for name, model in MODEL_SPECS.items()}
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


def known_options(builder: Callable[..., Model]) -> dict[str, Any]:
    """What a spec may say to `builder`, with the defaults (`inspect.Parameter.empty` where there is none), in the
    order of files: its parameters, and in place of those that are dataclasses of settings each of their fields."""
    options: dict[str, Any] = {}
    for name, parameter in inspect.signature(builder).parameters.items():
        if name not in DATA_ARGUMENTS:
            options |= (
                _fields(parameter.default) if is_dataclass(parameter.default) else {name: parameter.default}
            )
    return options


def _fields(settings: Any) -> dict[str, Any]:
    """Fields by name, of settings inside settings too; what a class defines itself goes before what it inherits."""
    options: dict[str, Any] = {}
    own = inspect.get_annotations(type(settings))
    for name in dict.fromkeys([*own, *(field.name for field in fields(settings))]):
        value = getattr(settings, name)
        options |= _fields(value) if is_dataclass(value) else {name: value}
    return options


def with_options(settings: Any, options: Mapping[str, Any]) -> Any:
    """`settings`, and settings inside them, with those of `options` that are their fields; checked as always."""
    changes, types = {}, get_type_hints(type(settings))
    for name, value in vars(settings).items():
        if is_dataclass(value):
            changes[name] = with_options(value, options)
        elif name in options:
            check_type(f"model.{name}", options[name], types[name])
            changes[name] = options[name]
    return replace(settings, **changes)


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
    known = known_options(builder)
    for option in arguments:
        if option not in known:
            raise ValueError(f"model {spec['name']} has no option {option!r}; {suggest(option, known)}")
    parameters = inspect.signature(builder).parameters.values()
    settings = {p.name: with_options(p.default, arguments) for p in parameters if is_dataclass(p.default)}
    others = {p.name: arguments[p.name] for p in parameters if p.name in arguments}
    check_types("model.", builder, others)
    return builder(num_classes=num_classes, preprocessing=preprocessing, **settings, **others)


def with_settings(spec: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with other `PREDICTION_SETTINGS`; raises `ValueError` for anything that this model has not.

    A `name` among them, as the choice of a task brings one, says nothing.
    """
    settings = {option: value for option, value in settings.items() if option != "name"}
    known = known_options(model_builder(spec.get("name"))).keys() & set(PREDICTION_SETTINGS)
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
    defaults = {
        name: list(default) if isinstance(default, tuple) else default
        for name, default in known_options(model_builder(spec["name"])).items()
        if default is not inspect.Parameter.empty
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
    found = MODEL_SPECS[model].load_weights
    return lookup({model: found} if found else {}, "model with published weights", model)
