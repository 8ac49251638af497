"""From the words of a command line, `key=value`, to the configuration of a run.

A key may be any of the files in `configs/`, a field of the settings, or an argument of what a configuration names, so
`model.score_threshold=0.3` works although the default stands only in Python. Anything else stops with the nearest key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tasks.cli.config_store import composed_by_hydra, own_hydra
from tasks.cli.folders import config_groups
from tasks.cli.found_data import (
    as_root,
    is_folder_alone,
    is_looked_for,
    is_of_run,
    take_data_of_run,
    with_format,
)
from tasks.cli.keys import known_keys, put
from tasks.cli.nodes import ALLOW_CODE, GIVEN, plain
from tasks.cli.run_config import config_of_run
from tasks.cli.words import check_choice, parsed, renamed, text_of, value_of
from tasks.harness.dotted import flat

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compose(config_name: str, words: Iterable[str]) -> DictConfig:
    """The configuration that `words` ask for. Raises `ValueError` with the nearest key for an unknown one.

    A folder alone (`data.root=DIR`, `data=DIR`) is data of the layout that it is found to have."""
    from omegaconf import OmegaConf

    words = [renamed(word) for word in words]
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise ValueError(f"cannot read {word!r}; settings are given as key=value")
    given = [(word.split("=", 1)[0], word) for word in words]
    allowed = [name for key, word in given if key == ALLOW_CODE for name in text_of(word).split(",")]
    given = [pair for key, word in given if key != ALLOW_CODE for pair in as_root(key, word)]
    resume = next((text_of(word) for key, word in given if key == "resume"), "null")
    if resume != "null":
        config = config_of_run(resume, given)
    else:
        config, given = _of_files(config_name, given)
    before = config.copy()
    config[ALLOW_CODE] = allowed
    if {"trainer", "schedule"} <= set(config) and "networks" not in config:
        config[GIVEN] = None if resume != "null" else _given(config_name, words, before)
    _replace_network(config, given)
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


def _of_files(config_name: str, given: list[tuple[str, str]]) -> tuple[DictConfig, list[tuple[str, str]]]:
    """The configuration of the files that words (each behind its key) choose, with the data that is found where none
    of them names its format, and the words that are left."""
    groups = config_groups()
    choices = [word for key, word in given if key.lstrip("~+") in groups]
    for key, word in given:
        if key in groups:
            check_choice(key, value_of(word), groups[key])
    of_hydra = [word for key, word in given if key.startswith(("+", "~")) and word not in choices]
    for word in of_hydra:
        parsed(word)
    config = composed_by_hydra(config_name, [*choices, *of_hydra])
    given = [(key, word) for key, word in given if key not in groups and not key.startswith(("+", "~"))]
    if is_folder_alone(config_name, config, choices, given):
        choices.append("data=auto")
        config = composed_by_hydra(config_name, [*choices, *of_hydra])
    elif is_of_run(config_name, choices, given):
        take_data_of_run(config, text_of(dict(given)["checkpoint"]))
    if is_looked_for(config):
        config, given = with_format(config_name, config, [*choices, *of_hydra], given)
    return config, given


def _given(config_name: str, words: list[str], config: DictConfig) -> list[str] | None:
    """What `words`, and the files that they choose, say: keys of values, or of whole parts. None with an experiment,
    which says all there is to say."""
    import hydra
    from omegaconf import OmegaConf

    said = {word.split("=", 1)[0].lstrip("~+"): word for word in words}
    if "experiment" in said and value_of(said["experiment"].lstrip("+")) is not None:
        return None
    same = [said[group] for group in ("task", "model") if group in said]
    with own_hydra():
        usual = hydra.compose(config_name, overrides=[*same, "data=coco", "data.root=x"])
    values, others = (flat(OmegaConf.to_container(c, resolve=False)) for c in (config, usual))  # type: ignore[arg-type]
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


def _replace_network(config: DictConfig, given: list[tuple[str, str]]) -> None:
    """Gives `config` the backbone and the pyramid that `given` asks for by name, whose options it may set as well.

    A recipe may describe a network of its own; if the backbone asked for lacks any of its options, they are all about
    the other network, and go. So do those of a pyramid that the simple one has no use for.
    """
    words = dict(given)
    for part in ("backbone", "pyramid"):
        word, node = words.get(f"{part}.name", words.get(part)), config.get(part)
        name = value_of(word) if word is not None else None
        if node is None or not isinstance(name, str) or name == node.get("name"):
            continue
        node.name = name
        options = {str(option) for option in node} - {"name", "pretrained"}
        if part == "backbone" and options - known_keys(config, part):
            for option in options:
                del node[option]
        elif part == "pyramid" and name == "simple":
            from backbones.pyramids import as_simple

            config.pyramid, _ = as_simple({key: value for key, value in plain(node).items() if key != "name"})
