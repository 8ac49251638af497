"""A composed training with what suits data of one's own in the place of what nobody has said."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from tasks.cli.nodes import GIVEN, plain
from tasks.data.augmentation.named import NAMED
from tasks.data.sources import Source
from tasks.harness.dotted import flat
from tasks.harness.suit import is_ones_own, suited


def suited_config(
    config: DictConfig, source: Source[Any], *, fetch: bool = True
) -> tuple[DictConfig, list[str]]:
    """A copy of `config` with what was chosen for `source`, the data set that it names, and a line for each choice;
    `fetch` says whether weights that are chosen are to be at hand."""
    config = config.copy()
    given = config.pop(GIVEN, None)
    if given is None or not is_ones_own(source):
        if config.get("size", "auto") != "auto" and config.get("resume") is None:
            raise ValueError(
                f"size={config.size} is for data of one's own without an experiment, as recipes name their network; "
                "give backbone= and preprocessing.short_side="
            )
        return config, []
    values = {key: value for key, value in plain(config).items() if key != "data"}
    found = suited(config.task.name, source, flat(values), list(given), fetch=fetch)
    for key, value in found.values.items():
        named = key == "augmentation"
        OmegaConf.update(
            config, key, {"transforms": NAMED[value]} if named else value, force_add=True, merge=False
        )
    return config, found.remarks
