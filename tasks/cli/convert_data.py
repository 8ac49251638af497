"""From a configured data set to the same in another format on disk."""

from pathlib import Path
from typing import get_args

from hydra.utils import instantiate
from omegaconf import DictConfig

from tasks.data.formats.convert import Crowd, Format, Split, convert
from tasks.data.formats.voc import VocData
from tasks.data.quality.policy import expected_splits

READ_WITH = {
    "coco": "data=coco data.root={out}",
    "voc": "data=voc data.root={out}",
    "yolo": "data=yolo data.root={out}",
}
"""How each format is read again."""


def convert_data(config: DictConfig) -> int:
    """Writes `config.data` into the folder `config.out` as format `config.to`, and says what that cannot hold.

    The exit status is 1 where objects were lost that no setting said to lose: `crowd=drop` or `crowd=keep` says what
    becomes of crowds, `allow_loss=true` that anything may be lost.
    """
    if config.to not in get_args(Format):
        raise ValueError(f"to={config.to} is unknown; wanted one of {', '.join(get_args(Format))}")
    if config.crowd is not None and config.crowd not in get_args(Crowd):
        raise ValueError(f"crowd={config.crowd} is unknown; wanted one of {', '.join(get_args(Crowd))}")
    source = instantiate(config.data)
    if not hasattr(source, "declares"):
        raise ValueError(
            f"{type(source).__name__} has no boxes in files that could be converted; give data=coco, data=voc or "
            "data=yolo with data.root=DIR"
        )
    if not isinstance(source, VocData):  # whose masks are of a list of their own
        source = source.with_masks()
    names = expected_splits(source)
    if not names:
        source.raw("train")  # says what is missing
    read = {name: source.split(name) for name in names}
    splits = [Split(name, split.folder, split.annotations, split.reading) for name, split in read.items()]
    out = Path(config.out)
    losses = convert(splits, config.to, out, crowd=config.crowd or "drop")
    for split in splits:
        print(f"{split.name}: {len(split.annotations)} images, {len(split.annotations.ids)} annotations")
    for line in losses.lines():
        print(f"note: {line}")
    extra = " data.test_images=test2017 data.test_annotations=annotations/instances_test2017.json"
    print(
        f"read it with {READ_WITH[config.to].format(out=out)}{extra if config.to == 'coco' and 'test' in names else ''}"
    )
    lost = 0 if config.crowd is not None else losses.dropped.total()
    if (lost or losses.unread) and not config.allow_loss:
        total = sum(len(split.annotations.ids) for split in splits)
        print(
            f"lost: {lost} of {total} objects are not written and {losses.unread} are not as their reader wants them; "
            "crowd=drop or crowd=keep says what becomes of crowds, allow_loss=true that this is meant"
        )
        return 1
    return 0
