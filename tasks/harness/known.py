"""What a training's settings are chosen by: `Facts` of the data, and `Known`, with the `Choice`s made so far."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.sources import Source
from tasks.zoo.task_specs import TASK_SPECS


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A data set in a few numbers. Sides are in pixels of the images as stored."""

    num_train: int
    num_val: int
    short_side: float | None = None
    """Of the median training image; None where its annotations do not say."""
    object_sides: tuple[float, float, float] | None = None
    """Square roots of the areas of training objects as a share of the shorter side of their image: the 2nd percentile,
    the median and the 98th percentile. None where there are no objects."""
    most_objects: int = 0
    """On one image of either split."""


def facts_of(source: Source[Any]) -> Facts:
    """The facts of `source`, which is already of the kind that its task learns from. Reads both splits."""
    train, val = source.split("train"), source.split("val")
    sides: dict[str, Any] = {}
    if train.objects is not None and val.objects is not None:
        sides = _of_objects(train.objects)
        counts = [np.diff(objects.offsets) for objects in (train.objects, val.objects)]
        sides["most_objects"] = max((int(count.max()) for count in counts if len(count)), default=0)
    return Facts(num_train=len(train), num_val=len(val), **sides)


def _of_objects(objects: Annotations) -> dict[str, Any]:
    if not len(objects):
        return {}
    short = objects.sizes.min(axis=1)
    found: dict[str, Any] = {"short_side": float(np.median(short))}
    areas = objects.boxes[:, 2:].clip(0).prod(axis=1)
    counting = (areas > 0) & ~objects.is_crowd
    if counting.any():
        shares = np.sqrt(areas) / np.repeat(short, np.diff(objects.offsets))
        low, middle, high = np.quantile(shares[counting], (0.02, 0.5, 0.98)).tolist()
        found["object_sides"] = (low, middle, high)
    return found


@dataclass(frozen=True)
class Choice:
    """Settings that were chosen together."""

    values: Mapping[str, Any]
    """By dotted key, as on a command line."""
    why: str

    def line(self) -> str:
        """The words that would say the same, and the reason."""
        return f"{' '.join(f'{key}={_word(value)}' for key, value in self.values.items())}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What there is to choose by."""

    task: str
    on_gpu: bool
    values: Mapping[str, Any]
    """What is said so far, by dotted key."""
    given: Collection[str]
    """Keys that somebody has said, of a setting or of a whole part (`optimizer`)."""
    has_weights: Callable[[str], bool] = lambda name: False
    """Whether weights of ImageNet are published for the backbone of that name."""
    pixels: Callable[[str], tuple[Sequence[float], Sequence[float]] | None] = lambda name: None
    """Mean and standard deviation of the pixels that these weights expect; None where they are the usual ones."""
    has_stages: Callable[[str], bool] = lambda name: False
    """Whether the first stages of the backbone of that name can be frozen."""
    file: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Description of the network in the file to start from, by dotted key; empty without one."""
    facts: Facts = Facts(num_train=0, num_val=0)
    choices: tuple[Choice, ...] = ()

    def is_open(self, key: str) -> bool:
        """Whether nobody has said anything of `key`, or of a part that it is in."""
        parts = key.split(".")
        return not any(".".join(parts[:n]) in self.given for n in range(1, len(parts) + 1))

    def get(self, key: str) -> Any:
        """The value of `key` so far, None where there is none."""
        return self.values.get(key)

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.get("model.name") or TASK_SPECS[self.task].model)

    @property
    def has_boxes(self) -> bool:
        """Whether the task finds objects."""
        return TASK_SPECS[self.task].views is not None

    @property
    def origin(self) -> str:
        """Where the weights come from: "model" (all of it), "backbone", or "nothing"."""
        if self.get("init_from") or self.get("pretrained") not in (None, False, "auto"):
            return "model"
        return "backbone" if self.get("backbone.pretrained") else "nothing"

    @property
    def chosen(self) -> dict[str, Any]:
        """The values of all choices, by dotted key."""
        return {key: value for choice in self.choices for key, value in choice.values.items()}

    def choose(self, why: str, **values: Any) -> "Known":
        """With those of `values` that are open, dots of whose keys are written `__`."""
        keys = {key.replace("__", "."): value for key, value in values.items()}
        found = {key: value for key, value in keys.items() if self.is_open(key)}
        if not found:
            return self
        choice = Choice(found, why)
        return replace(self, values={**self.values, **found}, choices=(*self.choices, choice))


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_word, cast(Sequence[Any], value)))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
