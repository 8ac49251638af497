"""What each task is made of, and the settings that suit it on the embedded data: the literal tables, as plain values.

Importing this costs nothing. Addresses are "module:attribute", looked up by `tasks.zoo.registry.lookup`.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ONCE_AT_THE_END = {"val_check_interval": "max_steps", "check_val_every_n_epoch": None}
"""Of `TrainerSettings`: one validation, after the last step."""


@dataclass(frozen=True)
class ModelSpec:
    """One model."""

    builder: str
    """Address of the function that builds it."""
    load_weights: str | None = None
    """Address of what is called with (model, state dict of torchvision's model of its kind, category_ids=…), where
    weights of whole models are published (`zoo.pretrained.PUBLISHED`)."""
    parts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What it needs of the parts below it: of `backbone` and `pyramid`."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task: the code behind it and what it does where nothing else is asked for."""

    task: str
    """Address of its `Task` subclass."""
    results: str
    """Address of the function from (predictions in pixels of the batch, batch, class names) to a result for each
    image."""
    models: Mapping[str, ModelSpec]
    """By name."""
    model: str
    """Its usual model."""
    data: str
    """The embedded data set that it can be tried on."""
    pyramid: str | None = "fpn"
    """Its usual feature pyramid; None where the model reads the backbone's last map alone."""
    views: str | None = None
    """Address of a model around its models that looks at several views of each image."""
    tiles: str | None = None
    """Address of the function that finds objects in tiles of one large picture."""
    explain: str | None = None
    """Address of what gives, of a model, the function that says which stage found or lost an object."""
    published: str | None = None
    """Address of what builds a model out of a backbone's published weights."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    """What suits it: by the data set's name, and by `<data>_<model>` for what one model wants beside that. Nested
    like `TrainSettings`, with `backbone`, `pyramid`, `model` and `data` beside them."""


# Scenes of 192 x 192 with at most seven objects, from random weights: minutes on two CPU cores.
_DETECTION_DIGITS = {
    "backbone": {"name": "resnet18"},
    "pyramid": {"channels": 96},
    "norm": "batch",
    "preprocessing": {"short_side": None},  # scenes have their size already
    "trainer": {"max_steps": 280, **ONCE_AT_THE_END},
}

TASK_SPECS = {
    "classification": TaskSpec(
        task="tasks.classification.task:ClassificationTask",
        results="tasks.classification.result:predicted_results",
        models={"classifier": ModelSpec("tasks.classification.classifier:classifier")},
        published="tasks.classification.published:published_classifier",
        model="classifier",
        data="single_digits",
        pyramid=None,
        recipes={
            # A minute and a half on two CPU cores.
            "single_digits": {
                "backbone": {"name": "cifar_resnet20"},
                "preprocessing": {"short_side": None},  # images are 32 x 32 already
                "data": {"num_train": 20000},  # the same handwriting more often, each time drawn anew
                "model": {"label_smoothing": 0.1},
                "loader": {"batch_size": 64},
                "optimizer": {"lr": 0.01},
                "trainer": {"max_steps": 900, **ONCE_AT_THE_END},
            }
        },
    ),
    "detection": TaskSpec(
        task="tasks.detection.task:DetectionTask",
        results="tasks.detection.result:predicted_results",
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
            "gfl": ModelSpec("tasks.detection.gfl:gfl"),
            "yolox": ModelSpec("tasks.detection.yolox:yolox", parts={"pyramid": {"name": "pafpn"}}),
        },
        model="faster_rcnn",
        data="digits",
        views="tasks.detection.views:ManyViews",
        tiles="tasks.detection.tiles:find_in_tiles",
        explain="tasks.detection.explain:explainer",
        recipes={
            "digits": _DETECTION_DIGITS,
            "digits_faster_rcnn": {
                # A ResNet-10, in batches of four: many small steps teach more here than few large ones.
                "backbone": {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1]},
                "model": {
                    "rpn_pre_nms_train": 150,  # a scene has few digits
                    "rpn_post_nms_train": 100,
                    "rpn_pre_nms_test": 150,
                    "rpn_post_nms_test": 60,
                    "box_samples": 96,
                    "box_representation_size": 512,
                },
                "loader": {"batch_size": 4},
                "trainer": {"max_steps": 440},
            },
            "digits_retinanet": {
                # Objects are 15 to 72 pixels high; random weights learn in minutes with batch norm.
                "pyramid": {"levels": ["c3", "c4", "c5"], "extra": "none", "norm": "batch"},
                "model": {
                    "anchor_sizes": [16, 32, 64],
                    "anchors_per_octave": 2,  # each anchor of a cell has a classifier of its own to learn: few do
                    "anchor_ratios": [1.6],  # better here, as tall as digits are
                    "head_layers": 2,
                    "head_norm": "group",
                },
                "loader": {"batch_size": 4},
                "optimizer": {"lr": 0.0015},
                "trainer": {"max_steps": 900},  # small batches and many steps
            },
            "digits_fcos": {
                "pyramid": {"levels": ["c3", "c4", "c5"], "extra": "none", "norm": "batch"},
                "model": {"head_layers": 2, "score_threshold": 0.05},
                "optimizer": {"lr": 0.002},
                "trainer": {"max_steps": 400},
            },
            "digits_gfl": {
                "pyramid": {"levels": ["c3", "c4", "c5"], "extra": "none", "norm": "batch"},
                "model": {"head_layers": 2},
                "loader": {"batch_size": 4},
                "optimizer": {"lr": 0.0015},
                "trainer": {"max_steps": 700},
            },
            "digits_yolox": {
                "model": {"width": 0.375, "score_threshold": 0.05},  # 96 channels, as the pyramid has
                "trainer": {"max_steps": 600},  # each level's head learns from its own objects alone
            },
        },
    ),
    "instance_segmentation": TaskSpec(
        task="tasks.instance_segmentation.task:InstanceSegmentationTask",
        results="tasks.instance_segmentation.result:predicted_results",
        models={
            "mask_rcnn": ModelSpec(
                "tasks.instance_segmentation.mask_rcnn:mask_rcnn",
                "tasks.instance_segmentation.torchvision_weights:load_torchvision_weights",
            ),
        },
        model="mask_rcnn",
        data="digits",
        views="tasks.detection.views:ManyViews",
        tiles="tasks.detection.tiles:find_in_tiles",
        explain="tasks.detection.explain:explainer",
        recipes={
            "digits": {
                **_DETECTION_DIGITS,
                "model": {
                    "rpn_pre_nms_train": 500,
                    "rpn_post_nms_train": 300,
                    "rpn_pre_nms_test": 500,
                    "rpn_post_nms_test": 200,
                    "box_samples": 96,
                    "box_representation_size": 512,
                    "mask_width": 96,
                    "mask_layers": 2,
                },
                "trainer": {"max_steps": 360, **ONCE_AT_THE_END},
            }
        },
    ),
    "semantic_segmentation": TaskSpec(
        task="tasks.semantic_segmentation.task:SemanticSegmentationTask",
        results="tasks.semantic_segmentation.result:predicted_results",
        models={
            "semantic_fpn": ModelSpec("tasks.semantic_segmentation.segmenter:semantic_fpn"),
            # Output stride 16 as the paper trains; 8 is finer and four times the work. The head reads the last map.
            "deeplabv3": ModelSpec(
                "tasks.semantic_segmentation.segmenter:deeplabv3",
                parts={"backbone": {"output_stride": 16}, "pyramid": None},
            ),
        },
        model="semantic_fpn",
        data="digits",
        recipes={
            "digits": {
                # A ResNet-10 of half the width: many small steps teach more here than few large ones.
                "backbone": {
                    "name": "resnet",
                    "block": "basic",
                    "blocks": [1, 1, 1, 1],
                    "widths": [32, 64, 128, 256],
                    "stem": "deep",
                },
                "pyramid": {"channels": 64, "norm": "batch"},
                "norm": "batch",
                "preprocessing": {"short_side": None},
                "model": {
                    "channels": 64,
                    "loss": "cross_entropy+dice",
                },  # nine tenths of a scene are background
                "loader": {"batch_size": 4},
                "optimizer": {"lr": 0.002},
                "trainer": {"max_steps": 1000, **ONCE_AT_THE_END},
            }
        },
    ),
}

MODEL_SPECS = {name: model for spec in TASK_SPECS.values() for name, model in spec.models.items()}
"""The models of all tasks by name."""


def recipe(task: str, data: str, model: str) -> dict[str, Any]:
    """What suits `task` on the data set called `data` with `model`; empty where there is nothing to say."""
    recipes = TASK_SPECS[task].recipes
    return merged(recipes.get(data, {}), recipes.get(f"{data}_{model}", {}))


def merged(first: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, the later before the earlier; lists replace each other whole. Its own copy."""
    result: dict[str, Any] = deepcopy(dict(first))
    for other in others:
        for key, value in other.items():
            old = result.get(key)
            if isinstance(old, Mapping) and isinstance(value, Mapping):
                result[key] = merged(old, value)
            else:
                result[key] = deepcopy(value)
    return result
