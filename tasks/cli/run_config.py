"""The configuration that an earlier run left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cli.folders import config_groups
from tasks.cli.nodes import INTERNAL
from tasks.cli.words import RENAMED, say_renamed

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
PARTS = ("data", "logger", "model", "task")


def load_config(path: Path) -> DictConfig:
    """The configuration in the `config.yaml` of a run, which an earlier version may have written. ValueError for a file
    that no run has written."""
    from omegaconf import OmegaConf

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

    values = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(values, dict) or any(not isinstance(values.get(key), dict | None) for key in PARTS):
        raise ValueError(
            f"{path} is not the configuration of a run, which has keys, also in {', '.join(PARTS)}"
        )
    config = OmegaConf.create(rename(values))
    for key in INTERNAL:
        config.pop(key, None)
    for old in sorted(renamed):
        say_renamed(old, RENAMED[old])
    return config


def config_of_run(resume: str, given: list[tuple[str, str]]) -> DictConfig:
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
    for logger in (config.get("logger") or {}).values():  # the run may have been moved since
        if logger.get("folder") == config.run_dir:
            logger.folder = str(folder)
    config.run_dir = str(folder)
    return config
