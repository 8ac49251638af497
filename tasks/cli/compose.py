"""From the words of a command line, `key=value`, to the configuration of a run.

A key may be anything that `configs/` lists or that the signature of a configured object takes, so
`model.score_threshold=0.3` works although the default stands only in Python. Anything else stops with
the nearest key.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cli.folders import CONFIGS, config_groups

if TYPE_CHECKING:
    from omegaconf import DictConfig

MOVED = {
    "tasks.data.cifar10": "tasks.data.formats.cifar10",
    "tasks.data.coco": "tasks.data.formats.coco",
    "tasks.data.compositing": "tasks.data.augmentation.multi_image",
    "tasks.data.digits": "tasks.data.formats.digits",
    "tasks.data.image_folder": "tasks.data.formats.image_folder",
    "tasks.data.mask_png": "tasks.data.formats.mask_png",
    "tasks.data.single_digits": "tasks.data.formats.digits",
    "tasks.data.sizing": "tasks.data.augmentation.scale",
    "tasks.data.voc": "tasks.data.formats.voc",
    "tasks.data.yolo": "tasks.data.formats.yolo",
}
"""Modules that a `_target_` of an earlier run's config.yaml may name, and where their content is now."""


def compose(config_name: str, overrides: Iterable[str]) -> DictConfig:
    """The configuration that `overrides` ask for. Raises `ValueError` with the nearest key for an unknown one."""
    import hydra
    from omegaconf import OmegaConf

    overrides = list(overrides)
    parsed = _parse(overrides)
    groups = config_groups()
    resume = next((o.value() for o in parsed if o.key_or_group == "resume"), None)
    if resume is not None:
        return _resumed(str(resume), parsed, groups)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(config_name, overrides=_hydra_words(config_name, overrides, parsed))
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{missing[0]} is not set; give {missing[0]}=…")
    return config


def hydra_words(config_name: str, overrides: list[str]) -> list[str]:
    """`overrides`, which may ask for several values each (`optimizer.lr=0.01,0.02`), in the form that Hydra takes."""
    import hydra

    parsed = _parse(overrides)
    if any(override.key_or_group in ("resume", "run_dir") for override in parsed):
        raise ValueError(
            "--multirun starts runs of its own: leave out resume and run_dir (hydra.sweep.dir=DIR)"
        )
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return _hydra_words(config_name, overrides, parsed)


def _parse(overrides: list[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        return OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        raise ValueError(f"cannot read {error.override!r}; settings are given as key=value") from None


def _hydra_words(config_name: str, overrides: list[str], parsed: list[Any]) -> list[str]:
    """Choices of files first, then settings as `rewrite` gives them; inside of Hydra's configuration folder."""
    import hydra

    groups = config_groups()
    for override in parsed:
        if override.key_or_group in groups and not override.is_delete():
            _check_choice(override.key_or_group, _values(override), groups[override.key_or_group])
    chosen = [o for o, p in zip(overrides, parsed, strict=True) if p.key_or_group in groups]
    firsts = [
        f"{p.key_or_group}={_values(p)[0]}" if p.is_sweep_override() else o
        for o, p in zip(overrides, parsed, strict=True)
        if p.key_or_group in groups
    ]
    base = hydra.compose(config_name, overrides=firsts)
    foreign = _replace_backbone(base, parsed)
    others = [
        word
        if override.is_add() or override.is_force_add() or override.is_delete()
        else rewrite(base, override)
        for word, override in zip(overrides, parsed, strict=True)
        if override.key_or_group not in groups
    ]
    return [*chosen, *others, *foreign]


def _values(override: Any) -> Any:
    """What an override asks for; a list where it asks for several in turn."""
    return list(override.sweep_iterator()) if override.is_discrete_sweep() else override.value()


def _replace_backbone(base: DictConfig, overrides: Iterable[Any]) -> list[str]:
    """Gives `base` the backbone that `overrides` ask for by name, whose options they may set as well; the
    deletions of those that are not for it.

    A recipe may describe a network of its own; if the one asked for lacks any of its options, they are all
    about the other network.
    """
    given = {override.key_or_group: override for override in overrides if not override.is_delete()}
    override, node = given.get("backbone.name", given.get("backbone")), base.get("backbone")
    name = override and override.value()
    if node is None or not isinstance(name, str) or name == node.name:
        return []
    node.name = name
    options = {str(option) for option in node} - {"name", "pretrained"}
    if not options - _arguments(node, "backbone"):
        return []
    return [f"~backbone.{option}" for option in sorted(options) if f"backbone.{option}" not in given]


def _resumed(resume: str, overrides: list[Any], groups: Iterable[str]) -> DictConfig:
    """The configuration of the run to go on with, and what the command line changes of it."""
    from omegaconf import OmegaConf

    folder = Path(resume) if Path(resume).is_dir() else Path(resume).parent.parent
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(
            f"resume={resume} is no run: there is no config.yaml in {folder}; give the folder of a run, or a "
            "checkpoint in it"
        )
    config = load_config(folder / "config.yaml")
    for logger in config.logger.values():  # the run may have been moved since
        if logger.get("folder") == config.run_dir:
            logger.folder = str(folder)
    config.run_dir = str(folder)
    for override in overrides:
        key = override.key_or_group
        if key in groups:
            raise ValueError(
                f"{override.input_line} cannot be changed in a run that goes on; leave it out, or start a run of "
                f"its own with init_from={resume}"
            )
        name = rewrite(config, override).lstrip("+").split("=", 1)[0]
        OmegaConf.update(config, name, override.value(), force_add=True)
    return config


def load_config(path: Path) -> DictConfig:
    """The configuration in the `config.yaml` of a run, which an earlier version may have written."""
    from omegaconf import DictConfig, OmegaConf

    def rename(node: Any) -> Any:
        if isinstance(node, list):
            return [rename(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {key: rename(value) for key, value in node.items()}
        module, _, name = str(node.get("_target_", "")).rpartition(".")
        return {**node, "_target_": f"{MOVED[module]}.{name}"} if module in MOVED else node

    config = OmegaConf.create(rename(OmegaConf.to_container(OmegaConf.load(path))))
    assert isinstance(config, DictConfig)
    return config


def rewrite(base: DictConfig, override: Any) -> str:
    """The form of `override` that Hydra takes, given the configuration without it.

    `backbone=resnet50` sets the name of a node that has one, and a key that only a signature knows is added.
    """
    from omegaconf import DictConfig

    key, value = override.key_or_group, override.input_line.split("=", 1)[1]
    *parents, last = key.split(".")
    node: Any = base
    for depth, part in enumerate(parents):
        if not isinstance(node, DictConfig) or part not in node:
            raise ValueError(_unknown(base, key, ".".join(parents[:depth]), node))
        node = node._get_node(part)
    if not isinstance(node, DictConfig):
        raise ValueError(_unknown(base, key, ".".join(parents), node))
    if last in list(node):  # `last in node` would miss what has no value yet (???)
        child = node._get_node(last)
        named = isinstance(child, DictConfig) and "name" in child and not isinstance(override.value(), dict)
        return f"{key}.name={value}" if named else f"{key}={value}"
    if last in _arguments(node, key):
        return f"++{key}={value}"
    raise ValueError(_unknown(base, key, ".".join(parents), node))


def _check_choice(group: str, value: Any, choices: list[str]) -> None:
    for choice in value if isinstance(value, list) else [value]:
        if choice is not None and str(choice) not in choices:
            from backbones.checks import suggest

            raise ValueError(f"{group}={choice} is not in configs/{group}/; {suggest(str(choice), choices)}")


def _arguments(node: DictConfig, key: str) -> set[str]:
    """What the object that `node` configures would take, by its signature."""
    import inspect

    if "_target_" in node:
        from hydra.utils import get_object

        return set(inspect.signature(get_object(node._target_)).parameters)
    root = key.split(".")[0]
    if root == "model" and "name" not in node:
        from tasks.zoo.registry import PREDICTION_SETTINGS

        return set(PREDICTION_SETTINGS)
    if root == "model":
        from tasks.zoo.registry import known_options, model_builder

        return set(known_options(model_builder(node.name)))
    if root in ("backbone", "pyramid") and "name" in node:
        from backbones.create import find_builder
        from backbones.pyramids import PYRAMIDS
        from backbones.spec import default_options

        builder = find_builder(node.name) if root == "backbone" else PYRAMIDS[node.name]
        return (
            {*default_options(builder), "pretrained"} if root == "backbone" else set(default_options(builder))
        )
    if root == "task" and "name" in node:
        from tasks.zoo.registry import TASKS, lookup

        # A subclass names what it adds and hands the rest on.
        kinds = [kind for kind in lookup(TASKS, "task", node.name).__mro__ if "__init__" in vars(kind)]
        own = kinds[: [kind.__name__ for kind in kinds].index("Task") + 1]
        parameters = [p for kind in own for p in inspect.signature(kind).parameters.values()]
        of_others = {"optimizer", "schedule", "config", "metric"}
        return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - of_others
    if root == "loader":
        from tasks.data.datamodule import LOADER_OPTIONS

        return set(LOADER_OPTIONS)
    if root == "metric":
        from tasks.zoo.registry import TASKS, lookup

        return {name for task in TASKS for name in lookup(TASKS, "task", task).metric_arguments}
    if root == "checkpointing":
        from tasks.harness.checkpoints import checkpoints

        return set(inspect.signature(checkpoints).parameters) - {"folder", "monitor"}
    if root == "preprocessing":
        from tasks.preprocessing import Preprocessing

        return set(inspect.signature(Preprocessing).parameters)
    return set()


def _unknown(base: DictConfig, key: str, parent: str, node: Any) -> str:
    """The sentence for a key that nothing takes."""
    from omegaconf import DictConfig

    from backbones.checks import suggest

    if isinstance(node, DictConfig) and parent:
        choices = {
            f"{parent}.{name}"
            for name in {*map(str, node), *_arguments(node, key)} - {"_target_", "_partial_"}
        }
    else:
        choices = {*config_groups(), *_leaves(base)}
    return f"unknown setting {key!r}; {suggest(key, choices)}"


def _leaves(node: Any, prefix: str = "") -> set[str]:
    from omegaconf import DictConfig

    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return {prefix} if prefix else set()
    names = set() if not prefix else {prefix}
    for name in node:
        names |= _leaves(node._get_node(name), f"{prefix}.{name}" if prefix else str(name))
    return {name for name in names if not name.endswith(("_target_", "_partial_"))}
