"""Annotations as files of flat arrays, one .npy each: read once, then mapped into memory, never parsed again.

<annotation file's folder>/.vertebra/<its name>-<choices>/facts.json, labels.npy, boxes.npy, …

All processes share the pages of such files, and none of them counts references in them. What was cached is used
while the annotation files have the sizes and the times of their last change that they had then, and while the code
that read them is the same. Image files that were checked then are not checked again; one that was damaged since
stops the run that reads it.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.segmentations import Segmentations

SMALLEST_FILE = 1_000_000
"""Bytes of an annotation file from which on it is cached; smaller ones are parsed faster than looked up."""
FOLDER = ".vertebra"


def cached(
    path: Path,
    read: Callable[[], Annotations],
    choices: dict[str, Any],
    *,
    beside: Sequence[Path] = (),
    is_true: Callable[[Annotations], bool] = lambda _: True,
) -> Annotations:
    """What `read` makes of the file at `path`, from the cache where it is in there, else put there.

    `choices`, plain values, are all that the result depends on beside this file and those `beside`; `is_true` looks
    at what was found once more. What `read` logged (what it changed) is logged again. Where nothing can be written
    beside the file, the cache is in the user's folder of caches; where nothing can be written there either, there
    is none.
    """
    if not path.is_file() or path.stat().st_size < SMALLEST_FILE:
        return read()
    facts = {
        "files": [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in (path, *beside)],
        "choices": choices,
        "version": version(),
    }
    digest = hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:8]
    places = [folder / f"{path.name}-{digest}" for folder in folders(path)]
    for place in places:
        if (found := load(place, facts)) is not None and is_true(found):
            tell(place)
            return found
    with Messages() as messages:
        annotations = read()
    for place in places:
        try:
            save(place, annotations, {**facts, "messages": messages.kept})
        except OSError:  # a folder that cannot be written to, a full disk
            continue
        found = load(place, facts)
        return annotations if found is None else found
    return annotations


def folders(path: Path) -> list[Path]:
    """Where the cache of the file at `path` may be, the best first."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return [path.parent / FOLDER, home / "vertebra" / "annotations" / name]


@cache
def version() -> str:
    """A digest of the code that reads data: what another code would read differently is no longer true."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def save(place: Path, annotations: Annotations, facts: dict[str, Any]) -> None:
    """Writes the annotations into the folder `place`, which is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=place.parent))
    try:
        values = {f.name: getattr(annotations, f.name) for f in fields(annotations)}
        segmentations = values.pop("segmentations")
        if segmentations is not None:
            values |= {f"segmentations-{k}": v for k, v in vars(segmentations).items()}
        facts = {**facts, "class_names": values.pop("class_names"), "has_masks": segmentations is not None}
        for name, array in values.items():
            np.save(partial / f"{name}.npy", array)
        (partial / "facts.json").write_text(json.dumps(facts))
        partial.chmod(0o755)  # mkdtemp's folder is its owner's alone
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not place.is_dir():  # else another process has put it there meanwhile
            raise


def load(place: Path, facts: dict[str, Any]) -> Annotations | None:
    """The annotations in the folder `place`, mapped; None where there are none of just these `facts`."""
    try:
        known = json.loads((place / "facts.json").read_text())
        if any(known.get(key) != value for key, value in facts.items()):
            return None
        names = {f.name for f in fields(Annotations)} - {"class_names", "segmentations"}
        arrays = {name: mapped(place / f"{name}.npy") for name in names}
        segmentations = None
        if known["has_masks"]:
            parts = {f.name: mapped(place / f"segmentations-{f.name}.npy") for f in fields(Segmentations)}
            segmentations = Segmentations(**parts)
        return Annotations(class_names=known["class_names"], segmentations=segmentations, **arrays)
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # not there, or damaged: read anew


def tell(place: Path) -> None:
    """Logs what was logged when the annotations in `place` were read."""
    for name, level, text in json.loads((place / "facts.json").read_text())["messages"]:
        logging.getLogger(name).log(level, "%s", text)


def mapped(file: Path) -> np.ndarray:
    """The array in the file, read when it is looked at; a plain `ndarray`, whose slices are cheaper to make than
    those of numpy's `memmap`."""
    if not (array := np.load(file, mmap_mode="r")).size:
        return np.array(array)  # nothing can be mapped of an empty array
    return array.view(np.ndarray)


class Messages(logging.Handler):
    """Keeps what `tasks.data` logs while it is entered, as (logger, level, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.name, record.levelno, record.getMessage()))

    def __enter__(self) -> "Messages":
        logging.getLogger("tasks.data").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tasks.data").removeHandler(self)
