"""`Found`: one way in which the files of a folder can be read, and how its splits become settings."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from tasks.data.layouts.listing import SPLIT_WORDS, Pairs, split_of
from tasks.data.splits import SPLITS, SplitName

Kind = Literal["objects", "classes", "class maps"]

Places = dict[SplitName | None, tuple[str, str]]
"""Images and annotations of each split; None for those of no split."""

SHARES = "0.8/0.2"
"""Of train and val, where a data set has no splits of its own."""


class UnclearError(ValueError):
    """A layout that leaves open what is meant, in words."""


@dataclass
class Found:
    """One way in which a folder can be read."""

    format: str
    """As in `tasks.data.FORMATS`."""
    words: str
    """What it is, for a person."""
    kind: Kind
    options: dict[str, Any]
    """Settings of the format, `root` apart."""
    notes: list[str] = field(default_factory=list)
    """What was chosen, in words."""


def split_it(found: Found) -> None:
    """Settings by which a data set without splits is split."""
    found.options |= {"split": SHARES, "near_copies": True}


def settled(found: Found, places: Places) -> Found:
    """The reading with the places of images and annotations of each split; split where there is one alone."""
    pairs = Pairs(places, dict.fromkeys(places, 1), [])
    for split, (images, annotations) in settled_pairs(found, pairs).items():
        found.options |= {f"{split}_images": images, f"{split}_annotations": annotations}
    if found.format == "coco":  # whose settings have places by default
        for split in ("train", "val"):
            if f"{split}_images" not in found.options:
                found.options |= {f"{split}_images": None, f"{split}_annotations": None}
    return found


def settled_pairs(found: Found, pairs: Pairs) -> dict[SplitName, tuple[str, str]]:
    """The places by split; that of no split, or train alone, is split by settings of `found`."""
    places = dict(pairs.folders)
    whole = places.pop(None, None)
    known: dict[SplitName, tuple[str, str]] = {name: places[name] for name in SPLITS if name in places}
    if whole is not None and "train" not in known:
        known["train"] = whole
    elif whole is not None:
        found.notes.append(f"what is in {whole[0]}, of no split, is left out")
    if "train" in known and "val" not in known:
        if "test" in known:
            known["val"] = known.pop("test")
            found.notes.append("test is val, for want of another")
        else:
            split_it(found)
    return known


def of_pairs(found: Found, pairs: Pairs) -> Iterator[Found]:
    """A reading of folders of labels, where any of them has a picture's name."""
    if not pairs.folders:
        return
    places = settled_pairs(found, pairs)
    beside = all(images == labels for images, labels in places.values())
    first = next(iter(places.values()))
    where = "beside the pictures" if beside else f"in {first[1]} for the pictures in {first[0]}"
    found.words = found.words.format(where=where)
    if pairs.unpaired:
        found.notes.append(f"{len(pairs.unpaired)} files of labels have no picture ('{pairs.unpaired[0]}')")
    for split, (images, labels) in places.items():
        found.options |= {f"{split}_images": images, f"{split}_annotations": labels}
    yield found


def with_namesakes(files: Sequence[str], others: Sequence[str]) -> list[str]:
    """The files, and those of `others` that are called as one of them but for the split: they may be damaged, which
    their reader then says."""

    def plain(name: str) -> str:
        words = re.split(r"[^a-z]+", PurePosixPath(name).name.lower())
        return " ".join(word for word in words if word not in SPLIT_WORDS)

    known = {plain(name) for name in files}
    return [name for name in others if name in files or plain(name) in known]


def one_a_split(
    files: Sequence[str], format: str, is_usual: Callable[[str], bool] = lambda _: False
) -> dict[SplitName | None, str]:
    """The annotation file of each split, None for one of no split. Of several `is_usual` chooses.

    Raises UnclearError where there is more than one."""
    of_split: dict[SplitName | None, list[str]] = {}
    for name in files:
        of_split.setdefault(split_of(name), []).append(name)
    if None in of_split and len(of_split) > 1:
        del of_split[None]
    found: dict[SplitName | None, str] = {}
    for split, names in of_split.items():
        usual = [name for name in names if is_usual(name)] or names
        if len(usual) > 1:
            choices = " or ".join(f"data.root=…/{name}" for name in usual[:4])
            raise UnclearError(
                f"{len(usual)} files ({', '.join(usual[:4])}) could be the annotations{f' of {split}' * bool(split)}; "
                f"choose one with {choices}, or name those of each split: data={format} data.train_annotations=… "
                "data.train_images=… and the same for val"
            )
        found[split] = usual[0]
    return found
