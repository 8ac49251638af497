"""Starting one model from another: `transfer` moves the weights that fit, heads by the names of classes.

The two may differ in task, classes, head or pyramid. What is the same part of both under the same name and
of the same shape moves whole; layers that have outputs for each class (`Model.class_layers`) move class by
class, so a detector of {cat, dog} gives one of {dog, horse} all that it knows of dogs.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import backbones
from tasks.contracts import Model

_STATISTICS = ("running_mean", "running_var")
_COUNTER = "num_batches_tracked"  # batch norm has it, frozen norm not; nothing is computed from it


@dataclass
class Transfer:
    """What `transfer` moved. Counts are of tensors: (moved, all of the target)."""

    backbone: tuple[int, int]
    pyramid: tuple[int, int]
    head: tuple[int, int]
    """Without the layers that have outputs for each class."""
    moved_classes: list[str]
    """Classes whose outputs came along; empty when the head has no such layer in common."""
    new_classes: list[str]
    """Classes that start from random weights."""
    unused_classes: list[str]
    """Classes of the source that the target has not."""
    reshaped: list[str]
    """Tensors that both have in different shapes, so that they stay as they are."""
    preprocessing: tuple[str, ...]
    """Settings of the preprocessing that differ."""
    new_statistics: int = 0
    """Running means and variances that the source has not."""
    norms: tuple[str, str] | None = None
    """Of the backbones of source and target, where their values mean different things."""

    def report(self) -> str:
        """The whole in a few lines."""
        parts = (("backbone", self.backbone), ("pyramid", self.pyramid), ("head", self.head))
        lines = ["moved " + ", ".join(f"{n} of {m} tensors of the {name}" for name, (n, m) in parts if m)]
        if self.moved_classes:
            lines.append(f"classes by name: {_listed(self.moved_classes)}")
        for title, names in (
            ("randomly initialised classes", self.new_classes),
            ("unused classes", self.unused_classes),
            ("of another shape, left as they were", self.reshaped),
            ("preprocessing differs in", self.preprocessing),
        ):
            if names:
                lines.append(f"{title}: {_listed(names)}")
        if self.norms is not None:
            lines.append(
                f"the norms differ, {self.norms[0]} in the file and {self.norms[1]} here: convolutions, scales and "
                "shifts moved, but what they were trained to expect did not"
                + (
                    f" ({self.new_statistics} running means and variances, which the file has not, begin anew)"
                    if self.new_statistics
                    else ""
                )
                + f", so expect a worse start than with norm={self.norms[0]}"
            )
        return "\n".join("  " + line for line in lines)


@torch.no_grad()
def transfer(target: Model, source: Model) -> Transfer:
    """Copies into `target` whatever of `source` fits. Both carry their headers.

    Raises:
        ValueError: less than nine tenths of the backbone fit, not counting the statistics of batch norms, which group
            norms do not have; `target` is then unchanged.
    """
    theirs = {_canonical(source, key): value for key, value in source.state_dict().items()}
    mine = {_canonical(target, key): value for key, value in target.state_dict().items()}
    classes = _shared_class_layers(target, source)
    whole = {
        key: value
        for key, value in mine.items()
        if not key.endswith(_COUNTER) and key.rpartition(".")[0] not in target.class_layers()
    }
    fitting = {key for key, value in whole.items() if key in theirs and theirs[key].shape == value.shape}
    counts = {
        part: (sum(key in fitting for key in keys), len(keys))
        for part in ("backbone", "pyramid", "head")
        for keys in [[key for key in whole if _part(key) == part]]
    }
    norms = _norms(target, source)
    trained = [key for key in whole if _part(key) == "backbone" and not key.endswith(_STATISTICS)]
    moved, total = sum(key in fitting for key in trained), len(trained)
    if 10 * moved < 9 * total:  # two ResNets have half of their shapes in common by chance
        theirs_spec, mine_spec = (model.header.model["backbone"] for model in (source, target))
        raise ValueError(
            f"only {moved} of the {total} tensors of the backbone {mine_spec['name']} are in the file, whose backbone "
            f"is {theirs_spec['name']}; give {_as_settings(theirs_spec, mine_spec)}, or start from a file with the "
            f"backbone {mine_spec['name']}"
        )
    for key in fitting:
        whole[key].copy_(theirs[key])
    source_names, target_names = source.header.class_names, target.header.class_names
    common = [name for name in target_names if name in source_names]
    for layer, outputs in classes.items():
        for kind in ("weight", "bias"):
            if (key := f"{layer}.{kind}") in mine:
                _move_classes(mine[key], theirs[key], target_names, source_names, outputs)
    return Transfer(
        **counts,
        moved_classes=common if classes else [],
        new_classes=[name for name in target_names if name not in common or not classes],
        unused_classes=[name for name in source_names if name not in common] if classes else [],
        reshaped=sorted(key for key in whole if key in theirs and key not in fitting),
        preprocessing=tuple(
            name
            for name in ("mean", "std")
            if getattr(target.preprocessing, name) != getattr(source.preprocessing, name)
        ),
        new_statistics=sum(key.endswith(_STATISTICS) and key not in theirs for key in whole),
        norms=norms,
    )


def _norms(target: Model, source: Model) -> tuple[str, str] | None:
    """The norms of the backbones of `source` and `target`, None where one takes the other's values as its own."""
    theirs, mine = (model.header.model["backbone"].get("norm") for model in (source, target))
    same = {"batch", "frozen"}
    return None if theirs == mine or {theirs, mine} <= same else (str(theirs), str(mine))


def _as_settings(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The settings with which `given`, the description of a backbone, would be `wanted`."""
    defaults = {"pretrained": False}
    with contextlib.suppress(ValueError):
        defaults = backbones.options(wanted["name"])
    words = [f"backbone={wanted['name']}"]
    for option, value in wanted.items():
        is_other = value != (list(d) if isinstance(d := defaults.get(option), tuple) else d)
        if option != "name" and (
            is_other or (wanted["name"] == given["name"] and value != given.get(option))
        ):
            words.append(f"backbone.{option}={json.dumps(value, separators=(',', ':'))}".replace('"', ""))
    return " ".join(words)


def _shared_class_layers(target: Model, source: Model) -> dict[str, int]:
    """The class layers of `target` that `source` has too, of the same inputs and number of outputs a class."""
    theirs, weights = source.class_layers(), (target.state_dict(), source.state_dict())
    return {
        layer: outputs
        for layer, outputs in target.class_layers().items()
        if theirs.get(layer) == outputs
        and weights[0][f"{layer}.weight"].shape[1:] == weights[1][f"{layer}.weight"].shape[1:]
    }


def _move_classes(
    mine: Tensor, theirs: Tensor, my_names: Sequence[str], their_names: Sequence[str], outputs: int
) -> None:
    """Copies the rows of each class that both have, and those of no class."""
    rows, other_rows = (
        tensor[: len(names) * outputs].unflatten(0, (len(names), outputs))
        for tensor, names in ((mine, my_names), (theirs, their_names))
    )
    for k, name in enumerate(my_names):
        if name in their_names:
            rows[k].copy_(other_rows[their_names.index(name)])
    mine[len(my_names) * outputs :].copy_(theirs[len(their_names) * outputs :])


def _canonical(model: Model, key: str) -> str:
    """`key` with the extractor's two halves, network and pyramid, told apart in every model."""
    spec = getattr(model.backbone, "spec", {})
    if not key.startswith("backbone.") or "pyramid" not in spec:
        return key
    return "pyramid." + key.removeprefix("backbone.fpn.") if key.startswith("backbone.fpn.") else key[9:]


def _part(key: str) -> str:
    first = key.partition(".")[0]
    return first if first in ("backbone", "pyramid") else "head"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
