"""Data of which words give no format: a folder alone, whose layout is looked for, or that of the run that made a
model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.cli.config_store import composed_by_hydra
from tasks.cli.folders import CONFIGS, config_groups
from tasks.cli.keys import known_keys, put
from tasks.cli.nodes import FOUND, plain, select
from tasks.cli.run_config import load_config
from tasks.cli.words import text_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

AUTO = "tasks.data.layouts.auto.open_folder"


def as_root(key: str, word: str) -> Iterator[tuple[str, str]]:
    """A word as it is, or `data=PATH` as data that is looked for there."""
    if key == "data" and (text := text_of(word)) not in config_groups().get("data", ()):
        from tasks.data import is_path

        if is_path(text):
            yield from (("data", "data=auto"), ("data.root", f"data.root={text}"))
            return
    yield key, word


def is_folder_alone(
    config_name: str, config: DictConfig, choices: list[str], given: list[tuple[str, str]]
) -> bool:
    """Whether a folder is given and no format of it, by a word or an experiment."""
    if not any(key == "data.root" for key, _ in given) or any(w.startswith("data=") for w in choices):
        return False
    if "data" not in config:
        return _takes_data(config_name)
    return "root" not in {*known_keys(config, "data"), *config.data}


def _takes_data(config_name: str) -> bool:
    """Whether the command has a place for data, which may be empty unless somebody names some."""
    from omegaconf import OmegaConf

    defaults = plain(OmegaConf.load(CONFIGS / f"{config_name}.yaml")).get("defaults", ())
    return any("data" in entry for entry in defaults if isinstance(entry, dict))


def is_of_run(config_name: str, choices: list[str], given: list[tuple[str, str]]) -> bool:
    """Whether a model is to be scored and nothing says on what."""
    keys = {key for key, _ in given}
    return (
        config_name == "evaluate"
        and text_of(dict(given).get("checkpoint", "=null")) != "null"
        and not keys & {"data.root", "data.file"}
        and not any(word.split("=")[0] in ("data", "experiment") for word in choices)
    )


def take_data_of_run(config: DictConfig, file: str) -> None:
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


def is_looked_for(config: DictConfig) -> bool:
    """Whether the format of the data is still to be found."""
    return "data" in config and config.data.get("_target_") == AUTO


def with_format(
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
    composed = composed_by_hydra(
        config_name, [*(c for c in choices if not c.startswith("data=")), f"data={found.format}"]
    )
    target = {"_target_": composed.data._target_}
    OmegaConf.update(composed, "data", {**target, **settings}, merge=False)
    composed[FOUND] = layout_line(found)
    return composed, [(key, word) for key, word in given if not key.startswith("data.")]


def _task_of(config: DictConfig, words: dict[str, str]) -> str | None:
    """The task that data is for, where a configuration or the model in it says so."""
    if isinstance(named := select(config, "task.name"), str):
        return named
    if "checkpoint" in words and Path(file := text_of(words["checkpoint"])).exists():
        from tasks.zoo.model_file import read

        return read(file)[0].task
    return None
