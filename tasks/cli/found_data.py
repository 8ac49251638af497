"""Data of which words give no format: a folder alone, whose layout is looked for, or that of the run that made a
model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def run_of(file: Path) -> Path:
    """The folder of the run that a model file or checkpoint lies in, or that `file` is."""
    if file.is_dir():
        return file
    return file.parent.parent if file.parent.name == "checkpoints" else file.parent


def take_data_of_run(config: DictConfig, file: str) -> None:
    """Gives `config` the data of the run that made the model `file`; without the run's configuration beside it the
    embedded data that the file's task is tried on, if it was trained on such.

    Raises ValueError, or FileNotFoundError where its folder is not there any more, with the setting that gives another.
    """
    from omegaconf import OmegaConf

    if not Path(file).exists():
        return  # which is said where it is read
    folder = run_of(Path(file))
    if (folder / "config.yaml").is_file():
        node = _data_of_run(file, plain(load_config(folder / "config.yaml")), folder)
        config[FOUND] = f"the data of the run in {folder}"
    else:
        node = _embedded_data(file)
    OmegaConf.update(config, "data", node, merge=False)


def _data_of_run(file: str, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The data set of the run in `folder`, with this `config`, as a configuration names it."""
    from tasks.cli.targets import TARGETS

    data = dict(config.get("data") or {})
    if data.get("_target_") not in TARGETS:
        raise ValueError(
            f"the run in {folder} was trained on a data set of its own code ({data.get('_target_')}); give data=… to "
            f"score {file} on"
        )
    key = next((key for key in ("root", "file") if isinstance(data.get(key), str)), None)
    if key is not None:
        data[key] = str(_find_again(data[key], config.get("run_dir"), folder, file))
    return data


def _embedded_data(file: str) -> dict[str, Any]:
    from tasks.data import FORMATS
    from tasks.zoo.model_file import read
    from tasks.zoo.task_specs import TASK_SPECS

    header = read(file)[0]
    known = FORMATS[TASK_SPECS[header.task].data].replace(":", ".")
    of = str(header.provenance.get("data", known))
    if of.rpartition(".")[2] != known.rpartition(".")[2]:
        raise ValueError(
            f"the run that made {file} is not beside it, so nothing says where its data is; give data.root=DIR"
        )
    return {"_target_": known}


def _find_again(place: str, run_dir: Any, folder: Path, file: str) -> Path:
    """The path of a run's data: as the run has it, or relative to where the run was started, which the place of its
    folder tells."""
    path = Path(place).expanduser()
    if not path.exists() and not path.is_absolute():
        is_relative = isinstance(run_dir, str) and not Path(run_dir).is_absolute()
        depth = len(Path(run_dir).parts) if is_relative else 0
        parents = [folder.absolute(), *folder.absolute().parents]
        path = parents[min(depth, len(parents) - 1)] / path
    if not path.exists():
        raise FileNotFoundError(
            f"the data that {file} was trained on, {place}, is not there any more; give the place of it, or other data "
            "of its classes, with data.root=DIR"
        )
    return path


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
