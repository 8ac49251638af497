"""From a configured data set to the same in another format on disk."""

from pathlib import Path
from typing import get_args

from omegaconf import DictConfig

from tasks.cli.data import told_data_of
from tasks.cli.output import Found, say_result
from tasks.data.formats.convert import Crowd, Format, Split, convert
from tasks.data.layouts.auto import ON_INVALID


def convert_data(config: DictConfig) -> Found:
    """Writes `config.data` into the folder `config.out` as format `config.to`, and says what that cannot hold.

    The exit status is 1 where objects were lost that no setting said to lose: `crowd=drop` or `crowd=keep` says what
    becomes of crowds, `data.on_invalid` what becomes of bad objects, `allow_loss=true` that anything may be lost.
    """
    if config.to not in get_args(Format):
        raise ValueError(f"to={config.to} is unknown; wanted one of {', '.join(get_args(Format))}")
    if config.crowd is not None and config.crowd not in get_args(Crowd):
        raise ValueError(f"crowd={config.crowd} is unknown; wanted one of {', '.join(get_args(Crowd))}")
    source = told_data_of(config).with_files()
    if source.masks_with_boxes:
        source = source.with_masks()
    names = source.expected_splits()
    if not names:
        source.raw("train")  # says what is missing
    splits = [
        Split(name, source.image_folder(name), source.split(name).annotations, source.reading)
        for name in names
    ]
    out = Path(config.out)
    losses = convert(splits, config.to, out, crowd=config.crowd or "drop")
    counts = {s.name: {"images": len(s.annotations), "annotations": len(s.annotations.ids)} for s in splits}
    for name, count in counts.items():
        say_result(f"{name}: {count['images']} images, {count['annotations']} annotations")
    for line in losses.lines():
        say_result(f"note: {line}")
    extra = " data.test_images=test2017 data.test_annotations=annotations/instances_test2017.json"
    read_with = f"data={config.to} data.root={out}" + extra * (config.to == "coco" and "test" in names)
    say_result(f"read it with {read_with}")
    lost = 0 if config.crowd is not None else losses.dropped.total()
    if source.on_invalid == ON_INVALID:  # which nobody has said
        lost += sum(len(source.raw(split.name).ids) - len(split.annotations.ids) for split in splits)
    is_lossy = bool(lost or losses.unread) and not config.allow_loss
    if is_lossy:
        total = sum(len(source.raw(split.name).ids) for split in splits)
        say_result(
            f"lost: {lost} of {total} objects are not written and {losses.unread} are not as their reader wants them; "
            "crowd=drop or crowd=keep says what becomes of crowds, data.on_invalid=fix what becomes of bad objects, "
            "allow_loss=true that this is meant"
        )
    values = {"folder": out, "splits": counts, "notes": losses.lines(), "lost": lost, "unread": losses.unread}
    return Found({**values, "read_with": read_with}, int(is_lossy))
