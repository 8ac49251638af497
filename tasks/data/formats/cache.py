"""Annotations as files of flat arrays, one .npy each: read once, then mapped into memory, never parsed again.

<annotation file's folder>/.vertebra/<its name>-<choices>/facts.json, labels.npy, boxes.npy, …

All processes share the pages of such files, and none of them counts references in them. What was cached is used
while the files have the sizes and the times of their last change that they had then, while the code that read them is
the same, and while every array has the checksum that it was written with; a damaged cache is told of and made anew.
Image files that were checked then are not checked again; one that was damaged since stops the run that reads it.
"""

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.segmentations import Segmentations
from tasks.data.loading.images import SUFFIXES, one_line, read_regular
from tasks.data.loading.storage import in_archive

SMALLEST_FILE = 1_000_000
"""Bytes of annotation files from which on they are cached; fewer are parsed faster than looked up."""
FOLDER = ".vertebra"
MAX_FACTS = 2**28
"""Bytes of facts.json: it holds what was logged."""
MAX_LISTED = 100
"""Files whose stamps are kept one by one; of more, a digest is."""
logger = logging.getLogger(__name__)


class DamagedError(ValueError):
    """A cache that is there and not as it was written."""


def cached(
    path: Path,
    read: Callable[[], Annotations],
    choices: dict[str, Any],
    *,
    beside: Sequence[Path] = (),
    is_true: Callable[[Annotations], bool] = lambda _: True,
) -> Annotations:
    """What `read` makes of the file or folder at `path`, from the cache where it is in there, else put there.

    `choices`, plain values, are all that the result depends on beside this file and those `beside`; `is_true` looks
    at what was found once more. What `read` logged (what it changed) is logged again. Where nothing can be written
    beside the file, the cache is in the user's folder of caches; where nothing can be written there either, there
    is none.
    """
    files = stamps([path, *beside])
    num_bytes = sum(size for name, size, _ in files if Path(name).suffix.lower() not in SUFFIXES)
    if not files or num_bytes < SMALLEST_FILE:
        return read()
    facts = {
        "files": files if len(files) <= MAX_LISTED else digest_of(json.dumps(files).encode()),
        "choices": json.loads(json.dumps(choices)),
        "version": version(),
    }
    digest = hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:8]
    places = [folder / f"{path.name}-{digest}" for folder in folders(path)]
    for place in places:
        try:
            found = load(place, facts)
        except DamagedError as error:
            logger.warning("the annotation cache '%s' is damaged (%s); the data is read anew", place, error)
            continue
        if found is not None and is_true(found[0]):
            for name, level, text in found[1]:
                logging.getLogger(name).log(level, "%s", text)
            return found[0]
    with Messages() as messages:
        annotations = read()
    for place in places:
        try:
            save(place, annotations, {**facts, "messages": messages.kept})
            found = load(place, facts)
        except (OSError, DamagedError):  # a folder that cannot be written to, a full disk
            continue
        return annotations if found is None else found[0]
    return annotations


def files_in(folders: Sequence[Path]) -> list[Path]:
    """All files right in these folders, or the archives that they are in, sorted."""
    found: list[Path] = []
    for folder in folders:
        if folder.is_dir():
            found += (Path(entry.path) for entry in os.scandir(folder) if entry.is_file())
        elif in_archive(folder) is not None:
            found.append(folder)
    return sorted(found)


def stamps(paths: Sequence[Path]) -> list[list[Any]]:
    """[name, size in bytes, time of the last change in ns] of each file, or of the archive that it is in; folders and
    what is not there are left out."""
    found: dict[str, list[Any]] = {}
    for path in paths:
        try:
            status = path.stat()
        except (OSError, ValueError):
            place = in_archive(path)
            if place is None or str(place[0]) in found:
                continue
            path, status = place[0], place[0].stat()
        if stat.S_ISREG(status.st_mode):
            found[str(path)] = [str(path), status.st_size, status.st_mtime_ns]
    return list(found.values())


def digest_of(content: bytes) -> str:
    """128-bit digest, in hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


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
    if place.parent.is_symlink() or place.is_symlink():
        raise OSError(f"'{place}' is a link")  # which may lead anywhere
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=place.parent))
    try:
        values = {f.name: getattr(annotations, f.name) for f in fields(annotations)}
        segmentations = values.pop("segmentations")
        if segmentations is not None:
            values |= {f"segmentations-{k}": v for k, v in vars(segmentations).items()}
        facts = {
            **facts,
            "class_names": values.pop("class_names"),
            "written_ids": {k: list(v.items()) for k, v in values.pop("written_ids").items()},
            "has_masks": segmentations is not None,
            "checksums": {},
        }
        for name, array in values.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
            facts["checksums"][name] = checksum(array)
        facts["checksum"] = digest_of(json.dumps(facts, sort_keys=True).encode())
        with (partial / "facts.json").open("w", encoding="utf-8") as file:
            json.dump(facts, file)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o755)  # mkdtemp's folder is its owner's alone
        sync_folder(partial)
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        sync_folder(place.parent)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not place.is_dir():  # else another process has put it there meanwhile
            raise


def sync_folder(folder: Path) -> None:
    """Puts the folder's list of files on the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def checksum(array: np.ndarray) -> str:
    """A digest of an array: its values, shape and type."""
    digest = hashlib.blake2b(f"{array.dtype.str} {array.shape} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def load(place: Path, facts: dict[str, Any]) -> tuple[Annotations, list[tuple[str, int, str]]] | None:
    """The annotations in the folder `place`, mapped, and what was logged when they were read; None where there are
    none of just these `facts`. Raises DamagedError where they are not as they were written."""
    if not place.is_dir() or place.is_symlink():
        return None
    try:
        known = json.loads(read_regular(place / "facts.json", MAX_FACTS))
        written = known.pop("checksum")
        if written != digest_of(json.dumps(known, sort_keys=True).encode()):
            raise DamagedError("facts.json is not as it was written")
        if any(known.get(key) != value for key, value in facts.items()):
            return None  # of other files, other choices or another version
        names = {f.name for f in fields(Annotations)} - {"class_names", "written_ids", "segmentations"}
        arrays = {name: mapped(place / f"{name}.npy", known["checksums"][name]) for name in names}
        segmentations = None
        if known["has_masks"]:
            segmentations = Segmentations(
                **{
                    f.name: mapped(place / f"{name}.npy", known["checksums"][name])
                    for f in fields(Segmentations)
                    for name in [f"segmentations-{f.name}"]
                }
            )
        annotations = Annotations(
            class_names=known["class_names"],
            written_ids={kind: dict(map(tuple, pairs)) for kind, pairs in known["written_ids"].items()},
            segmentations=segmentations,
            **arrays,
        )
        return annotations, [(name, level, text) for name, level, text in known["messages"]]
    except DamagedError:
        raise
    except Exception as error:  # of a file that is cut short, of zeros, or something else entirely
        raise DamagedError(one_line(error)) from error


def mapped(file: Path, expected: str) -> np.ndarray:
    """The array in the file, read when it is looked at; a plain `ndarray`, whose slices are cheaper to make than
    those of numpy's `memmap`. Raises DamagedError for one of another checksum."""
    array = np.load(file, mmap_mode="r")
    if checksum(array) != expected:
        raise DamagedError(f"{file.name} has another checksum")
    if not array.size:
        return np.array(array)  # nothing can be mapped of an empty array
    return array.view(np.ndarray)


class Messages(logging.Handler):
    """Keeps what `tasks.data` logs while it is entered, as (logger, level, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.name, record.levelno, record.getMessage()))
        # Where nobody handles messages Python prints warnings, but for this handler, which is one.
        names = ("tasks.data", "tasks", None)
        handlers = [handler for name in names for handler in logging.getLogger(name).handlers]
        last = logging.lastResort
        if last is not None and handlers == [self] and record.levelno >= last.level:
            last.handle(record)

    def __enter__(self) -> "Messages":
        logging.getLogger("tasks.data").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tasks.data").removeHandler(self)
