"""Names that other code bases give to the same tensors, and how they map to ours.

    ours         torchvision's, for ResNets and VGGs; timm's deep stem (`conv1.0.weight`) is the same too
    prefixes     `module.` (DataParallel), `model.` (Lightning), `encoder.` (segmentation models), `backbone.body.`
                 (torchvision's detectors), `backbone.bottom_up.` (detectron2) and the like
    detectron2   `stem.conv1.norm.weight`, `res2.0.conv1.weight`, `res2.0.shortcut.norm.weight`
    CIFAR        `module.layer1.0.shortcut.0.weight`, `module.linear.weight`; option A has no shortcut tensors
    EfficientNet `_blocks.3._expand_conv.weight`, as EfficientNet-PyTorch has it; timm's `blocks.2.0.conv_pw.weight`

Names only: detectron2's weights expect BGR images (and those it took from Caffe, ``stride_in_1x1=True``).
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

Rename = tuple[str, str | Callable[[re.Match[str]], str]]  # a pattern, and what takes the place of its match

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_state")
PREFIXES = (
    "",
    "module.",
    "model.",
    "backbone.",
    "encoder.",
    "net.",
    "network.",
    "backbone.body.",
    "backbone.backbone.",
    "backbone.bottom_up.",
    "bottom_up.",
    "model.backbone.",
    "model.backbone.backbone.",
    "module.backbone.",
    "module.encoder_q.",
    "module.model.",
)
DETECTRON2: tuple[Rename, ...] = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^res(\d)\.(\d+)\.conv(\d)\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}."),
    (r"^res(\d)\.(\d+)\.shortcut\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.1."),
    (r"^res(\d)\.(\d+)\.shortcut\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.0."),
    (r"^res(\d)\.", lambda m: f"layer{int(m[1]) - 1}."),
)
CIFAR: tuple[Rename, ...] = ((r"^(layer\d\.\d+)\.shortcut\.", r"\1.downsample."),)
# EfficientNet-PyTorch to timm; a block without expansion has one norm less, and timm counts its layers from there
EFFICIENTNET_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
}
EFFICIENTNET_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_project_conv": "conv_pwl",
    "_bn0": "bn1",
    "_bn1": "bn2",
    "_bn2": "bn3",
}
EFFICIENTNET_UNEXPANDED = {"_project_conv": "conv_pw", "_bn1": "bn1", "_bn2": "bn2"}
EFFICIENTNET_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def unwrap(loaded: Any) -> dict[str, Tensor]:
    """The state dict in what a file held: itself, or inside ``{"state_dict": …}`` and the like."""
    for _ in range(2):
        if isinstance(loaded, Mapping):
            entries = cast(Mapping[str, Any], loaded)
            loaded = next(
                (entries[key] for key in WRAPPERS if isinstance(entries.get(key), Mapping)), entries
            )
    entries: Mapping[str, Any] = cast(Mapping[str, Any], loaded) if isinstance(loaded, Mapping) else {}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("the file holds no weights: expected tensors by name, or a dict with 'state_dict'")
    return tensors


def to_our_keys(weights: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """`weights` under the names of `known` (a network's own keys), in the layout that matches most of them."""
    known = set(known)
    best: dict[str, Tensor] = dict(weights)
    most = len(known & best.keys())
    own = "network." if all(key.startswith("network.") for key in known) else ""  # an adapter's
    if is_efficientnet_pytorch(weights):
        return {own + key: value for key, value in from_efficientnet_pytorch(weights, known).items()}
    for prefix in PREFIXES:
        stripped = {
            own + key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
        }
        for renames in ((), DETECTRON2, CIFAR):
            renamed = {_rename(key, renames): value for key, value in stripped.items()}
            matches = len(known & renamed.keys())
            if matches > most:
                others = {key: value for key, value in weights.items() if not key.startswith(prefix)}
                best, most = others | renamed, matches
    return best


def is_efficientnet_pytorch(weights: Mapping[str, Tensor]) -> bool:
    """Whether `weights` have the names of EfficientNet-PyTorch."""
    return any(key.endswith("_blocks.0._depthwise_conv.weight") for key in weights)


def from_efficientnet_pytorch(weights: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """`weights` under timm's names. Blocks are counted through there and by stage in timm, so `known`, the
    network's own keys, say where each stage ends; blocks past them keep their names."""
    places = sorted(
        {(int(m[1]), int(m[2])) for key in known if (m := re.search(r"\bblocks\.(\d+)\.(\d+)\.", key))}
    )
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        name, _, rest = key.partition(".")
        if name == "_blocks":
            number, layer, rest = rest.split(".", 2)
            expands = f"_blocks.{number}._expand_conv.weight" in weights
            names = EFFICIENTNET_BLOCK | (EFFICIENTNET_EXPANDED if expands else EFFICIENTNET_UNEXPANDED)
            if layer in names and int(number) < len(places):
                stage, block = places[int(number)]
                key = f"blocks.{stage}.{block}.{names[layer]}.{rest}"
        elif name in EFFICIENTNET_TOP:
            key = f"{EFFICIENTNET_TOP[name]}.{rest}"
        renamed[key] = value
    return renamed


def _rename(key: str, renames: Sequence[Rename]) -> str:
    for pattern, replacement in renames:
        key, count = re.subn(pattern, replacement, key)
        if count:
            break
    return key
