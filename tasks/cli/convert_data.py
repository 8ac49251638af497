"""From a configured data set to the same in another format on disk."""

from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig

from tasks.cli.settings import data_of
from tasks.data.formats.convert import Crowd, Format, Split, convert
from tasks.data.formats.voc import VocData
from tasks.data.quality.policy import SPLITS
from tasks.data.sources import SplitName

READ_WITH = {
    "coco": "data=coco data.root={out}",
    "voc": "data=voc data.root={out}",
    "yolo": "data=yolo data.root={out}",
}
"""How each format is read again."""


def convert_data(config: DictConfig) -> None:
    """Writes `config.data` into the folder `config.out` as format `config.to`, and says what that cannot hold."""
    for key, choices in (("to", get_args(Format)), ("crowd", get_args(Crowd))):
        if config[key] not in choices:
            raise ValueError(f"{key}={config[key]} is unknown; wanted one of {', '.join(choices)}")
    source: Any = data_of(config)
    if not hasattr(source, "declares"):
        raise ValueError(
            f"{type(source).__name__} has no boxes in files that could be converted; give data=coco, data=voc or "
            "data=yolo with data.root=DIR"
        )
    if not isinstance(source, VocData):  # whose masks are of a list of their own
        source = source.with_masks()
    names: list[SplitName] = [name for name in SPLITS if source.declares(name)]
    if not names:
        source.raw("train")  # says what is missing
    splits = [Split(name, source.split(name).folder, source.split(name).annotations) for name in names]
    out = Path(config.out)
    losses = convert(splits, config.to, out, crowd=config.crowd)
    for split in splits:
        print(f"{split.name}: {len(split.annotations)} images, {len(split.annotations.ids)} annotations")
    for line in losses.lines():
        print(f"note: {line}")
    extra = " data.test_images=test2017 data.test_annotations=annotations/instances_test2017.json"
    print(
        f"read it with {READ_WITH[config.to].format(out=out)}{extra if config.to == 'coco' and 'test' in names else ''}"
    )
