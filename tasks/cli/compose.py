"""From the words of a command line, `key=value`, to the configuration of a run, and from that to settings.

Hydra puts the files in `configs/` together, and the groups that stand in Python (tasks, models, recipes, optimisers,
schedules). A key may be any of theirs, a field of the settings, or an argument of what a configuration names, so
`model.score_threshold=0.3` works although the default stands only in Python. Anything else stops with the nearest key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cli.folders import CONFIGS, config_groups
from tasks.cli.groups import OWN_PACKAGE, ROOTS, python_groups
from tasks.harness.settings import TrainSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig

RENAMED = {
    "on_bad": "on_invalid",
    "closing_epochs": "close_mosaic_epochs",
    "task.closing": "task.l1_final_fraction",
}
"""Settings that once had another name, which is still read; with a dot it is the whole key."""
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
TEXT = {
    "backbone.pretrained", "checkpoint", "dataset", "detections", "init_from", "licence", "out", "output", "pretrained",
    "repo", "resume", "run_dir", "source",
}  # fmt: skip
"""Keys whose text after the first `=` is taken as it stands, like that of the names and folders of `data`."""
ALLOW_CODE = "allow_code"
FOUND = "found"
"""Key of a composed configuration: the layout that was found of data that was looked for, in words."""
AUTO = "tasks.data.layouts.auto.open_folder"
DATA_IS_OPTIONAL = ("export",)
"""Commands that have no data unless somebody names some."""
GIVEN = "given"
"""Key of a composed training: what somebody has said, by dotted key; null where all is said, as an experiment does."""
INTERNAL = (ALLOW_CODE, FOUND, GIVEN)
"""Keys that no file of a run keeps."""
WORDS = {"null": None, "true": True, "false": False}


def compose(config_name: str, words: Iterable[str]) -> DictConfig:
    """The configuration that `words` ask for. Raises `ValueError` with the nearest key for an unknown one.

    A folder alone (`data.root=DIR`, `data=DIR`) is data of the layout that it is found to have."""
    from omegaconf import OmegaConf

    words = [_renamed(word) for word in words]
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise ValueError(f"cannot read {word!r}; settings are given as key=value")
    keys = [word.split("=", 1)[0] for word in words]
    allowed = [
        name
        for key, word in zip(keys, words, strict=True)
        if key == ALLOW_CODE
        for name in _text(word).split(",")
    ]
    given = [(key, word) for key, word in zip(keys, words, strict=True) if key != ALLOW_CODE]
    given = [pair for key, word in given for pair in _as_root(key, word)]
    resume = next((_text(word) for key, word in given if key == "resume"), "null")
    if resume != "null":
        config = _resumed(resume, given)
    else:
        groups = config_groups()
        choices = [word for key, word in given if key.lstrip("~+") in groups]
        for key, word in given:
            if key in groups:
                _check_choice(key, value_of(word), groups[key])
        of_hydra = [word for key, word in given if key.startswith(("+", "~")) and word not in choices]
        for word in of_hydra:
            parsed(word)
        config = _composed(config_name, [*choices, *of_hydra])
        given = [(key, word) for key, word in given if key not in groups and not key.startswith(("+", "~"))]
        if _is_folder_alone(config_name, config, choices, given):
            choices.append("data=auto")
            config = _composed(config_name, [*choices, *of_hydra])
        elif _is_of_run(config_name, choices, given):
            _take_data_of_run(config, _text(dict(given)["checkpoint"]))
        if _is_auto(config):
            config, given = _found(config_name, config, [*choices, *of_hydra], given)
    before = config.copy()
    config[ALLOW_CODE] = allowed
    if {"trainer", "schedule"} <= set(config) and "networks" not in config:
        config[GIVEN] = None if resume != "null" else _given(config_name, words, before)
    _replace_backbone(config, given)
    _replace_pyramid(config, given)
    required = OmegaConf.missing_keys(config)
    for key, word in given:
        put(config, key, word)
    if resume != "null":
        from tasks.harness.resuming import check_changes

        names = [key for key, _ in given if key != "resume"]
        select = OmegaConf.select
        check_changes(resume, [name for name in names if select(config, name) != select(before, name)])
    given_none = {key for key in required if OmegaConf.select(config, key, throw_on_missing=False) is None}
    missing = sorted(OmegaConf.missing_keys(config) | given_none)
    if missing:
        raise ValueError(f"{missing[0]} is not set; give {missing[0]}=…")
    return config


def _composed(config_name: str, overrides: list[str]) -> DictConfig:
    """What Hydra makes of choices."""
    import hydra
    from omegaconf import OmegaConf

    with _own_hydra():
        config = hydra.compose(config_name, overrides=overrides)
    for key in (ALLOW_CODE, FOUND):
        if key in config:
            raise ValueError(f"{key} is for the command line alone; no configuration file may say it")
    OmegaConf.set_struct(config, False)
    return config


def _as_root(key: str, word: str) -> Iterator[tuple[str, str]]:
    """A word as it is, or `data=PATH` as data that is looked for there."""
    if key == "data" and (text := _text(word)) not in config_groups().get("data", ()):
        from tasks.data import is_path

        if is_path(text):
            yield from (("data", "data=auto"), ("data.root", f"data.root={text}"))
            return
    yield key, word


def _is_folder_alone(
    config_name: str, config: DictConfig, choices: list[str], given: list[tuple[str, str]]
) -> bool:
    """Whether a folder is given and no format of it, by a word or an experiment."""
    if not any(key == "data.root" for key, _ in given) or any(w.startswith("data=") for w in choices):
        return False
    if config_name in DATA_IS_OPTIONAL:
        return True
    return "data" in config and "root" not in {*known_keys(config, "data"), *config.data}


def _is_of_run(config_name: str, choices: list[str], given: list[tuple[str, str]]) -> bool:
    """Whether a model is to be scored and nothing says on what."""
    keys = {key for key, _ in given}
    return (
        config_name == "evaluate"
        and _text(dict(given).get("checkpoint", "=null")) != "null"
        and not keys & {"data.root", "data.file"}
        and not any(word.split("=")[0] in ("data", "experiment") for word in choices)
    )


def _take_data_of_run(config: DictConfig, file: str) -> None:
    """Gives `config` the data of the run that made the model `file`."""
    from omegaconf import OmegaConf

    from tasks.cli.run_data import data_of_run, run_of

    if not Path(file).exists():
        return  # which is said where it is read
    folder = run_of(Path(file))
    of_run = load_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else None
    node = data_of_run(file, None if of_run is None else plain(of_run), folder)
    OmegaConf.update(config, "data", node, merge=False)
    if of_run is not None:
        config[FOUND] = f"the data of the run in {folder}"


def _is_auto(config: DictConfig) -> bool:
    return "data" in config and config.data.get("_target_") == AUTO


def _found(
    config_name: str, config: DictConfig, choices: list[str], given: list[tuple[str, str]]
) -> tuple[DictConfig, list[tuple[str, str]]]:
    """The configuration with the format that data in a folder has, and the words that are left."""
    from omegaconf import OmegaConf

    from tasks.data.layouts.auto import find, layout_line, settings_of

    for key, word in given:
        if key.startswith("data."):
            put(config, key, word)
    words = {key: value for key, value in plain(config.data).items() if key != "_target_"}
    root, format, task = (words.pop(key, None) for key in ("root", "format", "task"))
    if root in (None, "???"):
        raise ValueError("data.root is not set; give data.root=…, the folder of the data")
    found = find(root, format=format, task=task or _task_of(config, dict(given)))
    settings = settings_of(found, words)
    composed = _composed(
        config_name, [*(c for c in choices if not c.startswith("data=")), f"data={found.format}"]
    )
    target = {"_target_": composed.data._target_}
    OmegaConf.update(composed, "data", {**target, **settings}, merge=False)
    composed[FOUND] = layout_line(found)
    return composed, [(key, word) for key, word in given if not key.startswith("data.")]


def _task_of(config: DictConfig, words: dict[str, str]) -> str | None:
    """The task that data is for, where a configuration or the model in it says so."""
    if isinstance(named := _select(config, "task.name"), str):
        return named
    if "checkpoint" in words and Path(file := _text(words["checkpoint"])).exists():
        from tasks.zoo.model_file import read

        return read(file)[0].task
    return None


def _given(config_name: str, words: list[str], config: DictConfig) -> list[str] | None:
    """What `words`, and the files that they choose, say: keys of values, or of whole parts. None with an experiment,
    which says all there is to say."""
    import hydra

    said = {word.split("=", 1)[0].lstrip("~+"): word for word in words}
    if "experiment" in said and value_of(said["experiment"].lstrip("+")) is not None:
        return None
    same = [said[group] for group in ("task", "model") if group in said]
    with _own_hydra():
        usual = hydra.compose(config_name, overrides=[*same, "data=coco", "data.root=x"])
    values, others = _flat(config), _flat(usual)
    given = {key for key, value in values.items() if key not in others or others[key] != value}
    groups = config_groups()
    for key in said:
        if key in ("backbone", "pyramid"):
            given.add(f"{key}.name")
        elif key not in groups or key in WHOLE:
            given.add(key)
    return sorted(key for key in given if key.split(".")[0] not in ("data", "task", ALLOW_CODE))


WHOLE = ("augmentation", "optimizer", "schedule")
"""Groups whose choice says all of their node."""


def _flat(config: DictConfig) -> dict[str, Any]:
    """Values by dotted key; lists count as values."""
    found: dict[str, Any] = {}

    def add(values: Any, prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and value:
                add(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    from omegaconf import OmegaConf

    add(OmegaConf.to_container(config, resolve=False), "")
    return found


def _renamed(word: str) -> str:
    """`word` with present names in the place of earlier ones, in its key and in a mapping that it gives."""
    key, equals, value = word.partition("=")
    for old, new in RENAMED.items():
        found = re.sub(rf"(?<![\w.]){old}$" if "." in old else rf"(?<!\w){old}$", new, key)
        given = re.sub(rf"(?<=[{{,\s]){old}(?=\s*:)", new, value) if value[:1] in ("{", "[") else value
        if (found, given) != (key, value):
            _say_renamed(old, new)
        key, value = found, given
    return f"{key}{equals}{value}"


def _say_renamed(old: str, new: str) -> None:
    print(f"note: the setting {old} is called {new} now", file=sys.stderr)


def value_of(word: str) -> Any:
    """What a word asks for, read as Hydra reads it."""
    override = parsed(word)
    if override.is_sweep_override():
        raise ValueError(f"{word} asks for several values; give --multirun as well, or quotes around a comma")
    return override.value()


def parsed(word: str) -> Any:
    """The word as Hydra's parser understands it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        key, equals, value = word.partition("=")
        raise ValueError(
            f"cannot read the value of {key} in {word!r}; a text goes into two kinds of quotes: '{key}=\"…\"'"
            if equals and value
            else f"cannot read {word!r}; settings are given as key=value"
        ) from None


def first_values(word: str) -> str:
    """`word` with the first of the values that it asks for, checked; as it is where it asks for one."""
    key, equals, _ = word.partition("=")
    if not equals or key in TEXT:
        return word
    try:
        override = parsed(word)
    except ValueError:  # a text of `data`, or a mistake that is found where it is read
        return word
    if not override.is_sweep_override():
        return word
    if override.is_interval_sweep():
        return f"{key}={override.value().start}"
    values = list(override.sweep_string_iterator())
    if key in (groups := config_groups()):
        _check_choice(key, values, groups[key])
    return f"{key}={values[0]}"


def has_text(config: DictConfig, key: str) -> bool:
    """Whether the text after the first `=` is taken as it stands for `key`."""
    return key in TEXT or key == ALLOW_CODE or is_text(config, key)


def put(config: DictConfig, key: str, word: str) -> None:
    """Sets in `config` what `word` says of `key`.

    `backbone=resnet50` sets the name of a node that has one, and a key that only Python knows is added.
    """
    from omegaconf import DictConfig, OmegaConf

    *parents, last = key.split(".")
    node: Any = config
    for depth, part in enumerate(parents):
        if not isinstance(node, DictConfig) or part not in node:
            raise ValueError(_unknown(config, key, ".".join(parents[:depth])))
        node = node._get_node(part)
    parent = ".".join(parents)
    if not isinstance(node, DictConfig) or (
        last not in list(node) and last not in known_keys(config, parent)
    ):
        raise ValueError(_unknown(config, key, parent))
    value = _path(word, key) if has_text(config, key) else value_of(word)
    child = (
        node._get_node(last) if last in list(node) else None
    )  # `last in node` would miss what has no value yet
    if (
        isinstance(child, DictConfig)
        and not child._is_none()
        and "name" in child
        and not isinstance(value, dict)
    ):
        key = f"{key}.name"
    OmegaConf.update(config, key, value, force_add=True)


def known_keys(config: DictConfig, parent: str) -> set[str]:
    """What Python takes in the node `parent`: fields of settings, or arguments of what is built of it."""
    from omegaconf import DictConfig

    if not parent:
        # The configuration of an earlier run lacks what is newer than it.
        names = {field.name for field in dataclasses.fields(TrainSettings)} | {"run_dir"}
        return names - {"loggers", "augmentation"} if {"task", "schedule"} <= set(config) else set()
    node = _select(config, parent)
    if not isinstance(node, DictConfig):
        return set()
    if parent in _settings():
        return {field.name for field in dataclasses.fields(_settings()[parent])}
    if parent in BUILT:
        return BUILT[parent](node.get("name"))
    if node.get("_target_") is not None:
        from tasks.cli.targets import arguments

        return set(arguments(str(node._target_), list(config.get(ALLOW_CODE, ()))))
    return set()


def is_text(config: DictConfig, key: str) -> bool:
    """Whether `key` is an argument of the data set that is a text or a path and nothing else."""
    parent, _, name = key.rpartition(".")
    node = _select(config, "data") if parent == "data" else None
    if node is None or node.get("_target_") is None:
        return False
    from tasks.cli.targets import arguments

    parameter = arguments(str(node._target_), list(config.get(ALLOW_CODE, ()))).get(name)
    if parameter is None:
        return False
    kind = parameter.annotation
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return set(kinds) <= {str, Path, type(None)}


def plain(config: Any) -> Any:
    """A configuration, or a part, as plain containers."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def load_config(path: Path) -> DictConfig:
    """The configuration in the `config.yaml` of a run, which an earlier version may have written."""
    from omegaconf import DictConfig, OmegaConf

    renamed: set[str] = set()

    def present_name(place: str, key: str) -> str:
        old = next((name for name in (f"{place}{key}", key) if name in RENAMED), None)
        if old is None:
            return key
        renamed.add(old)
        return RENAMED[old].removeprefix(place)

    def rename(node: Any, place: str = "") -> Any:
        if isinstance(node, list):
            return [rename(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {present_name(place, key): rename(value, f"{place}{key}.") for key, value in node.items()}
        module, _, name = str(node.get("_target_", "")).rpartition(".")
        return {**node, "_target_": f"{MOVED[module]}.{name}"} if module in MOVED else node

    config = OmegaConf.create(rename(OmegaConf.to_container(OmegaConf.load(path))))
    assert isinstance(config, DictConfig)
    for key in INTERNAL:
        config.pop(key, None)
    for old in sorted(renamed):
        _say_renamed(old, RENAMED[old])
    return config


def _resumed(resume: str, given: list[tuple[str, str]]) -> DictConfig:
    """The configuration of the run to go on with."""
    if not Path(resume).exists():
        raise FileNotFoundError(
            f"resume={resume} does not exist; give the folder of a run (it is there once training has begun) or a "
            "checkpoint in it"
        )
    folder = Path(resume) if Path(resume).is_dir() else Path(resume).parent.parent
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(
            f"resume={resume} is no run: there is no config.yaml in {folder}; give the folder of a run, or a "
            "checkpoint in it"
        )
    groups = config_groups()
    for key, word in given:
        if key in groups:
            raise ValueError(
                f"{word} cannot be changed in a run that goes on; leave it out, or start a run of its own with "
                f"init_from={resume}"
            )
    config = load_config(folder / "config.yaml")
    for logger in config.logger.values():  # the run may have been moved since
        if logger.get("folder") == config.run_dir:
            logger.folder = str(folder)
    config.run_dir = str(folder)
    return config


def _replace_backbone(config: DictConfig, given: list[tuple[str, str]]) -> None:
    """Gives `config` the backbone that `given` asks for by name, whose options it may set as well.

    A recipe may describe a network of its own; if the one asked for lacks any of its options, they are all
    about the other network, and go.
    """
    words = dict(given)
    word, node = words.get("backbone.name", words.get("backbone")), config.get("backbone")
    name = value_of(word) if word is not None else None
    if node is None or not isinstance(name, str) or name == node.name:
        return
    node.name = name
    options = {str(option) for option in node} - {"name", "pretrained"}
    if options - known_keys(config, "backbone"):
        for option in options:
            del node[option]


def _replace_pyramid(config: DictConfig, given: list[tuple[str, str]]) -> None:
    """Gives `config` the pyramid that `given` asks for by name, without the options that another one had of it."""
    words = dict(given)
    word, node = words.get("pyramid.name", words.get("pyramid")), config.get("pyramid")
    name = value_of(word) if word is not None else None
    if not node or not isinstance(name, str) or name == node.get("name"):
        return
    node.name = name
    if name == "simple":
        from backbones.pyramids import as_simple

        simple, _ = as_simple({key: value for key, value in plain(node).items() if key != "name"})
        config.pyramid = simple


def _check_choice(group: str, value: Any, choices: list[str]) -> None:
    for choice in value if isinstance(value, list) else [value]:
        if str(choice) not in choices and (choice is not None or isinstance(value, list)):
            from backbones.checks import suggest

            raise ValueError(f"{group}={choice} is not in configs/{group}/; {suggest(str(choice), choices)}")


def _unknown(config: DictConfig, key: str, parent: str) -> str:
    """The sentence for a key that nothing takes."""
    from omegaconf import DictConfig

    from backbones.checks import suggest

    def keys(parent: str) -> set[str]:
        node = config if not parent else _select(config, parent)
        own = set(map(str, node)) if isinstance(node, DictConfig) and not node._is_none() else set()
        with contextlib.suppress(ValueError):  # of what the node names, which is another mistake
            own |= known_keys(config, parent)
        names = own - {"_target_", "_partial_", *INTERNAL}
        return {f"{parent}.{name}" if parent else name for name in names}

    tops = keys("")
    choices = keys(parent) if parent else tops.union(config_groups(), *(keys(top) for top in tops))
    return f"unknown setting {key!r}; {suggest(key, choices)}"


def _select(config: DictConfig, key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node._get_node(part) if hasattr(node, "_get_node") and part in node else None
    return node


def _text(word: str) -> str:
    return word.split("=", 1)[1]


def _path(word: str, key: str) -> Any:
    """The text after the first `=` as it stands, though null means what it says, and true and false of weights."""
    text = _text(word)
    if text in WORDS and (text == "null" or key.endswith("pretrained")):
        return WORDS[text]
    return text.replace("${", "\\${")


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra set up for one composition, whatever it is in the middle of, such as a sweep."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    register()
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


@cache
def register() -> None:
    """Shows Hydra the groups that stand in Python, and the defaults of the settings."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for group, choices in python_groups().items():
        for name, node in choices.items():
            store.store(
                group=group, name=name, node=node, package=None if group in OWN_PACKAGE else "_global_"
            )
    for name, defaults in ROOTS.items():
        store.store(name=name, node=defaults(), package="_global_")


@cache
def _settings() -> dict[str, type]:
    """The dataclasses whose fields are the keys of a node."""
    from tasks.harness.settings import CheckpointSettings, LoaderSettings, MetricSettings, TrainerSettings
    from tasks.preprocessing import Preprocessing

    return {
        "trainer": TrainerSettings,
        "loader": LoaderSettings,
        "checkpointing": CheckpointSettings,
        "metric": MetricSettings,
        "preprocessing": Preprocessing,
    }


def _model_options(name: str | None) -> set[str]:
    from tasks.zoo.registry import PREDICTION_SETTINGS, known_options, model_builder

    return set(PREDICTION_SETTINGS) if name is None else set(known_options(model_builder(name)))


def _backbone_options(name: str | None) -> set[str]:
    from backbones.create import find_builder
    from backbones.spec import default_options

    return set() if name is None else {*default_options(find_builder(name)), "pretrained"}


def _pyramid_options(name: str | None) -> set[str]:
    from backbones.pyramids import PYRAMIDS
    from backbones.spec import default_options

    return set(default_options(PYRAMIDS[name])) if name in PYRAMIDS else set()


def _task_options(name: str | None) -> set[str]:
    from tasks.zoo.registry import TASKS, lookup

    # A subclass names what it adds and hands the rest on.
    kinds = [kind for kind in lookup(TASKS, "task", name).__mro__ if "__init__" in vars(kind)]
    own = kinds[: [kind.__name__ for kind in kinds].index("Task") + 1]
    parameters = [p for kind in own for p in inspect.signature(kind).parameters.values()]
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {
        "optimizer",
        "schedule",
        "config",
        "metric",
    }


BUILT: dict[str, Callable[[str | None], set[str]]] = {
    "model": _model_options,
    "backbone": _backbone_options,
    "pyramid": _pyramid_options,
    "task": _task_options,
}
"""Nodes that are built by a name in them, and what that name's builder takes."""
