"""Puts the weights of torchvision's `retinanet_resnet50_fpn`, its `_v2`, or `fcos_resnet50_fpn` into our models.

What differs between the two:
    names    the tables below, and keys as torchvision wrote them before 0.13
    towers   torchvision numbers layers, activations included; here a convolution, its norm and its activation
             are one block
    classes  torchvision's rows are by anchor, then class; here by class, then anchor. Its COCO weights have 91
             slots, COCO's gapped ids, of which 0 stands for nothing
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from .dense_detector import DenseDetector
from .torchvision_weights import BACKBONE_NAMES, class_slots, load_converted, renamed

_NAMES = {
    **BACKBONE_NAMES,
    r"head\.classification_head\.conv\.(\d+)\.([01])\.": r"heads.0.class_tower.\1.\2.",
    r"head\.regression_head\.conv\.(\d+)\.([01])\.": r"heads.0.box_tower.\1.\2.",
    r"head\.classification_head\.cls_logits\.": "heads.0.classes.",
    r"head\.regression_head\.bbox_reg\.": "heads.0.deltas.",
    r"head\.regression_head\.bbox_ctrness\.": "heads.0.quality.",
}
_TOWERS = {"classification_head": "class_tower", "regression_head": "box_tower"}
_FLAT = re.compile(r"head\.(classification_head|regression_head)\.conv\.(\d+)\.(weight|bias)")


def load_torchvision_dense_weights(
    model: DenseDetector, state_dict: Mapping[str, Tensor], *, category_ids: Sequence[int] | None = None
) -> None:
    """Copies all of `state_dict`, that of a torchvision RetinaNet or FCOS, into our model of the same kind,
    which then computes the same.

    Class k of the model becomes slot `category_ids[k]` of torchvision's classes; without `category_ids`, slot
    k, or slot k + 1 where there is one slot more than classes. For the published COCO weights give the 80 ids
    in use. They also want what they were trained with: `norm="frozen"` in the backbone, `norm_eps=0.0` for
    RetinaNet's first version; the options of `retinanet` that it names for the second, with `norm="batch"`.

    Raises:
        ValueError: another number of classes, or weights of another architecture. The model is then unchanged.
    """
    # In a tower of FCOS each convolution is followed by its norm and its activation.
    block = 3 if "head.regression_head.bbox_ctrness.weight" in state_dict else 2
    weights = {_renamed(key, block): value for key, value in state_dict.items()}
    if "heads.0.classes.weight" not in weights:
        raise ValueError(
            "these are not the weights of a torchvision RetinaNet or FCOS: nothing stands for heads.0.classes; give "
            "the state dict of torchvision.models.detection.retinanet_resnet50_fpn, fcos_resnet50_fpn or one like it"
        )
    for name in ("weight", "bias"):
        rows = weights[f"heads.0.classes.{name}"]
        if len(rows) % model.num_anchors:
            raise ValueError(
                f"the weights have {len(rows)} rows of classes, no multiple of the model's {model.num_anchors} "
                "anchors a cell; build the model with the settings the weights were trained with"
            )
        rows = rows.unflatten(0, (model.num_anchors, -1)).transpose(0, 1)
        slots = class_slots(len(rows), model.num_classes, category_ids, first=0)
        weights[f"heads.0.classes.{name}"] = rows[slots].flatten(0, 1)
    load_converted(model, weights)


def _renamed(key: str, block: int) -> str:
    if found := _FLAT.fullmatch(key):
        layer, part = divmod(int(found[2]), block)
        return f"heads.0.{_TOWERS[found[1]]}.{layer}.{part}.{found[3]}"
    return renamed(key, _NAMES)
