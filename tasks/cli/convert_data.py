"""From a configured data set to the same in another format on disk."""

from pathlib import Path
from typing import get_args

from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.data.formats.convert import Crowd, Format, Split, convert
from tasks.data.splits import SPLITS, SplitName

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
    source = data_of(config).with_files()
    names: list[SplitName] = [name for name in SPLITS if source.has_split(name)]
    if not names:
        source.raw("train")  # says what is missing
    if source.masks_with_boxes:
        source = source.with_masks()
    splits = [Split(name, source.image_folder(name), source.split(name).annotations) for name in names]
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
