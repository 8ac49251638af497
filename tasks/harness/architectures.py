"""The literal tables from a name to the code behind it: models, tasks, and their results.

A model is described by a *spec*: `{"name": "faster_rcnn", "backbone": {…}, …}`, its builder's plain
arguments. Configs, checkpoints and model files all hold a spec, and `build_model` is the one way from
a spec to a network, so a file never names code to import: only a key of `MODELS`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tasks.contracts import Model
from tasks.harness.nearest import nearest
from tasks.preprocessing import Preprocessing

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
TASKS = {
    "classification": "tasks.classification.task:ClassificationTask",
    "detection": "tasks.detection.task:DetectionTask",
    "instance_segmentation": "tasks.instance_segmentation.task:InstanceSegmentationTask",
    "semantic_segmentation": "tasks.semantic_segmentation.task:SemanticSegmentationTask",
}
RESULTS = {  # of a task, for single pictures
    "classification": "tasks.classification.result:results",
    "detection": "tasks.detection.result:results",
    "instance_segmentation": "tasks.instance_segmentation.result:results",
    "semantic_segmentation": "tasks.semantic_segmentation.result:results",
}
VIEWS = {  # of a task, a model around its models that looks at several views of each image
    "detection": "tasks.detection.views:ManyViews",
    "instance_segmentation": "tasks.detection.views:ManyViews",
}
TILES = {  # of a task, results for one large picture from those for its tiles
    "detection": "tasks.detection.tiles:find_in_tiles",
    "instance_segmentation": "tasks.detection.tiles:find_in_tiles",
}
DATA_ARGUMENTS = ("num_classes", "preprocessing")  # come from the data, not from a spec


def lookup(table: Mapping[str, str], kind: str, name: object) -> Any:
    """What `table` holds under `name`; raises `ValueError` with the nearest names when nothing is."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"unknown {kind} {name!r}; {nearest(str(name), table)}")
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
            raise ValueError(f"model {spec['name']} has no option {option!r}; {nearest(option, choices)}")
    return builder(num_classes=num_classes, preprocessing=preprocessing, **arguments)


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
