"""What a configuration may name by `_target_`, as a literal table, and how it is made.

Our data sets, transforms, schedules and loggers, albumentations' transforms and torch.optim's classes. Anything else
needs `allow_code=my_module` on the command line: opening a file of somebody else's never runs code that it names.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from tasks.data import FORMATS
from tasks.typed_settings import is_named

PARTS = {
    "tasks.data.augmentation.multi_image": ("Mosaic", "MixUp", "CutMix", "CopyPaste"),
    "tasks.data.augmentation.scale": ("MultiScale", "LargeScaleJitter", "CropKeepingBoxes"),
    "tasks.harness.optim": ("constant", "warmup_cosine", "warmup_steps"),
    "tasks.harness.loggers": ("csv", "tensorboard", "wandb", "mlflow"),
}
"""Modules, and what a configuration may name of them beside data sets; imported when it is asked for."""
TARGETS = (
    *(address.replace(":", ".") for address in FORMATS.values()),
    *(f"{module}.{name}" for module, names in PARTS.items() for name in names),
)
"""All of these names."""


def find(target: str, allowed: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function that a configuration names; `allowed` are modules that the command line trusts.

    Raises ValueError for anything that is not in the table.
    """
    module, _, attribute = target.rpartition(".")
    if target in TARGETS:
        return getattr(importlib.import_module(module), attribute)
    if target.startswith("torch.optim."):
        from tasks.harness.optim import optimizer_class

        return optimizer_class(target)
    if target.startswith("albumentations."):
        return _transform(target)
    if any(module == name or module.startswith(f"{name}.") for name in allowed):
        return _of_user(module, attribute)
    near = get_close_matches(target, TARGETS, n=1)
    raise ValueError(
        f"_target_={target} is not among what a configuration may name (data sets, transforms, schedules and loggers "
        "of this project, albumentations' transforms, torch.optim's classes)"
        + (f"; did you mean {near[0]}?" if near else "")
        + f"; to run code of your own, give allow_code={target.split('.')[0]} on the command line"
    )


def build(node: Any, allowed: Sequence[str] = (), what: str = "") -> Any:
    """What plain nested values describe: a mapping with `_target_` is made of the arguments beside it, of which
    messages say `what` in front of the name."""
    if isinstance(node, list):
        return [build(item, allowed) for item in node]
    if not isinstance(node, Mapping):
        return node
    values = {key: build(value, allowed) for key, value in node.items() if not str(key).startswith("_")}
    if "_target_" not in node:
        return values
    make = find(str(node["_target_"]), allowed)
    if unknown := [key for key in node if str(key).startswith("_") and key not in ("_target_", "_partial_")]:
        raise ValueError(f"{unknown[0]} beside _target_={node['_target_']} means nothing here; leave it out")
    if str(node["_target_"]) in TARGETS:
        _check_types(what, make, values)
    return partial(make, **values) if node.get("_partial_") else make(**values)


def _check_types(what: str, make: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """ValueError for a value of another type than its argument has."""
    kinds = {
        name: str(parameter.annotation) for name, parameter in inspect.signature(make).parameters.items()
    }
    unnamed = {k: v for k, v in values.items() if k in kinds and not is_named(v, kinds[k])}
    if unnamed:
        from backbones.checks import check_types

        check_types(what, make, unnamed)


def arguments(target: str, allowed: Sequence[str] = ()) -> dict[str, inspect.Parameter]:
    """What the object called `target` takes, by name, with its types."""
    found: dict[str, inspect.Parameter] = {}
    make = find(target, allowed)
    try:
        kinds = get_type_hints(make.__init__ if isinstance(make, type) else make)
    except (NameError, TypeError):  # of somebody else's code, imported for types alone
        kinds = {}
    for name, parameter in inspect.signature(make).parameters.items():
        kind = kinds.get(name, parameter.annotation)
        if get_origin(kind) is not Unpack:
            found[name] = parameter.replace(annotation=kind)
            continue
        for key, kind_of_key in get_type_hints(get_args(kind)[0]).items():
            found[key] = inspect.Parameter(key, parameter.KEYWORD_ONLY, default=None, annotation=kind_of_key)
    return found


def _transform(target: str) -> Callable[..., Any]:
    import tasks.data.augmentation.pipeline  # noqa: F401 (first: it keeps albumentations from asking the network)

    import albumentations  # isort: skip

    bases = (albumentations.BasicTransform, albumentations.BaseCompose)
    known = {
        name: value
        for name, value in vars(albumentations).items()
        if isinstance(value, type) and issubclass(value, bases) and value not in bases
    }
    name = target.rpartition(".")[2]
    if name not in known:
        from backbones.checks import suggest

        raise ValueError(f"_target_={target} is not a transform of albumentations; {suggest(name, known)}")
    return known[name]


def _of_user(module: str, attribute: str) -> Callable[..., Any]:
    """Of a module that the command line trusts, which may lie in the folder where the command runs."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_={module}.{attribute} cannot be found ({error})") from None
