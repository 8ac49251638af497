"""`suited`: the settings that suit a task on data of one's own on this machine, and what is said of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import backbones
from tasks.data import FORMATS
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source
from tasks.devices import resolve_device
from tasks.harness.choices import NETWORK, SIZES, TRAINING, origin, run
from tasks.harness.dotted import flat
from tasks.harness.known import Known, facts_of
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import read
from tasks.zoo.pretrained import fetch_published
from tasks.zoo.registry import TASKS, lookup

NOT_ONES_OWN = ("digits", "single_digits", "cifar10")
"""Formats whose recipes or configurations say all there is to say."""


@dataclass(frozen=True)
class Suited:
    """What was chosen."""

    values: Mapping[str, Any]
    """By dotted key; `augmentation` is a name of `tasks.data.augmentation.named`."""
    remarks: list[str]
    """A line for each choice."""


def format_of(data: Source[Any]) -> str | None:
    """The name of the format of a data set, as `tasks.data.open` takes it; None for one of somebody else's."""
    kind = f"{type(data).__module__}:{type(data).__qualname__}"
    return next((name for name, address in FORMATS.items() if address == kind), None)


def is_ones_own(data: Source[Any]) -> bool:
    """Whether nothing but the data itself says what suits it."""
    return format_of(data) not in NOT_ONES_OWN


def suited(
    task: str, data: Source[Any], values: Mapping[str, Any], given: Collection[str], *, fetch: bool = True
) -> Suited:
    """What suits `task` on `data`, a data set of one's own, where nobody has said otherwise.

    `values` are what is said so far, by dotted key; `given` are those keys, or parts such as "optimizer", that somebody
    has said. Raises ValueError where weights that were chosen cannot be had and `fetch` wants them, before anything is
    read; or as reading `data` does.
    """
    if (size := values.get("size", "auto")) not in ("auto", *SIZES):
        raise ValueError(f"size={size} is unknown; wanted auto, {', '.join(SIZES)}")
    device = resolve_device(str(values.get("trainer.accelerator") or "auto").replace("gpu", "cuda"))
    start = values.get("init_from")
    known = Known(
        task=task,
        on_gpu=device.type == "cuda",
        values=values,
        given=given,
        has_weights=backbones.has_published_weights,
        pixels=_pixels,
        has_stages=_has_stages,
        file={} if start is None or values.get("pretrained") else flat(read(start)[0].model),
    )
    known = run(NETWORK, known)
    if fetch:
        _fetch(known)
    as_learned = DataModule(data, Preprocessing(), **lookup(TASKS, "task", task).data_options).source
    known = run(TRAINING, replace(known, facts=facts_of(as_learned)))
    return Suited(known.chosen, [choice.line() for choice in known.choices])


def where_from(task: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `pretrained=auto` means for the network of `spec`: `pretrained`, and `backbone.pretrained` or nothing."""
    values = {
        f"{part}.name": dict(spec[part]).get("name") for part in ("backbone", "pyramid") if spec.get(part)
    }
    known = Known(
        task=task,
        on_gpu=False,
        values={**values, "model.name": spec["name"], "pretrained": "auto"},
        given=["backbone.pretrained"] if spec["backbone"].get("pretrained") else [],
        has_weights=backbones.has_published_weights,
    )
    known = origin(known)
    _fetch(known)
    return known.chosen or {"pretrained": False}


def _fetch(known: Known) -> None:
    """Has the weights that were chosen at hand before anything else is done."""
    try:
        if "pretrained" in known.chosen and (tag := known.get("pretrained")):
            fetch_published(known.model, tag)
        elif "backbone.pretrained" in known.chosen:
            options = {
                key.removeprefix("backbone."): value
                for key, value in known.values.items()
                if key.startswith("backbone.")
            }
            backbones.create(**options)
    except ValueError as error:
        raise ValueError(f"{error}; or train from random weights: pretrained=false") from None


def _pixels(backbone: str) -> tuple[Sequence[float], Sequence[float]] | None:
    found, usual = backbones.expected_pixels(backbone), Preprocessing()
    return None if found == (usual.mean, usual.std) else found


def _has_stages(backbone: str) -> bool:
    try:
        with torch.device("meta"):
            return len(backbones.create(backbone).stages) > 2
    except ValueError:  # one that needs more words, or that is not installed
        return False
