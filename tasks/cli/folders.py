"""Folders of configuration files: the project's own, and those that `--config-dir` puts on top of it.

In a checkout the project's are `configs/` at the top; a wheel carries a copy beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.cli.groups import python_groups

_HERE = Path(__file__).resolve().parent
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parents[1] / "configs"
_on_top: list[Path] = []  # the first one wins


def take_config_dirs(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """`words` of a command line without `--config-dir DIR` (or `--config-dir=DIR`), and the folders that they name.

    Raises `ValueError` for a folder that is not there.
    """
    rest, folders = [], []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name != "--config-dir":
            rest.append(word)
            continue
        folder = Path(value if equals else next(remaining, ""))
        if folder == Path() or not folder.is_dir():
            raise ValueError(
                f"--config-dir {folder} is not a folder; give one with files such as experiment/mine.yaml"
            )
        folders.append(folder.resolve())
    return rest, folders


def put_on_top(folders: Sequence[Path]) -> None:
    """Makes Hydra look for files in `folders`, the first one first, before the project's own."""
    _on_top[:] = folders
    if not folders:
        return
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class OnTop(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in reversed(_on_top):
                search_path.prepend(provider="--config-dir", path=f"file://{folder}")

    Plugins.instance().register(OnTop)


def config_groups() -> dict[str, list[str]]:
    """Names of the groups of configurations, files and those in Python, and of the choices in each."""
    groups = {group: set(choices) for group, choices in python_groups().items()}
    for top in (CONFIGS, *_on_top):
        for folder in top.iterdir():
            if folder.is_dir() and (names := {file.stem for file in folder.glob("*.yaml")}):
                groups.setdefault(folder.name, set()).update(names)
    return {group: sorted(groups[group]) for group in sorted(groups)}
