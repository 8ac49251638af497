"""What `source` means: pictures (a file, a folder, a glob, a list, an address), a video, a camera or a stream."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tasks.data.loading.images import SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
)
"""Endings, in lower case, of files that are taken for videos."""
LIST_SUFFIX = ".txt"
ADDRESSES = ("http://", "https://")
"""What pictures are fetched from."""
STREAMS = (*ADDRESSES, "rtsp://", "rtsps://", "rtmp://", "rtp://", "udp://", "srt://")
"""What streams are opened at."""
MAX_LINE = 4096
"""Characters of a line in a list."""


class Picture(NamedTuple):
    """One picture of a source."""

    place: str
    """Its path, or its address."""
    name: str
    """Path below the output folder, without an ending, that no other picture of the source has."""
    file_name: str
    """How labels call it: its path below the source where that is a folder, else its place."""


@dataclass(frozen=True)
class Video:
    """A video, a camera or a stream."""

    place: str | int
    """Path or address; the number of a camera."""
    name: str
    """What its results are called."""
    is_live: bool
    """Whether it ends only when somebody stops it."""


def find_video(source: str) -> Video | None:
    """The video, camera or stream that `source` means; None where it means pictures."""
    path = Path(source)
    if _exists(path):
        return Video(source, path.stem, False) if path.suffix.lower() in VIDEO_SUFFIXES else None
    if re.fullmatch(r"\d{1,3}", source):
        return Video(int(source), f"camera-{source}", True)
    if source.startswith(STREAMS) and not _is_picture_address(source):
        return Video(source, _name_of_address(source, "stream"), True)
    return None


def find_pictures(source: str, *, download: bool = False, leave_out: Path | None = None) -> Iterator[Picture]:
    """The pictures that `source` means: itself, those in a folder and the folders in it, what a glob matches, or what
    a text file lists; sorted, but for a list, whose order stays. Hidden folders are passed over, and `leave_out`.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a list names addresses, and `download` does not say that they are to be fetched.
    """
    if not source:
        raise ValueError("source= is empty; give a picture, a folder, a glob, a list, a video or an address")
    found = _pictures(source, download, leave_out)
    first = next(found, None)
    if first is None:
        path = Path(source)
        what = (
            "holds no pictures"
            if path.is_dir()
            else "lists no pictures"
            if path.is_file()
            else "is not a picture, folder or glob that matches anything, nor a video, camera or address"
        )
        raise FileNotFoundError(f"source={source} {what} (known endings: {', '.join(sorted(SUFFIXES))})")
    yield first
    yield from found


def _pictures(source: str, download: bool, leave_out: Path | None) -> Iterator[Picture]:
    path = Path(source)
    if source.startswith(ADDRESSES):
        yield Picture(source, _name_of_address(source, "picture"), source)
    elif path.is_dir():
        yield from _in_folder(path, leave_out)
    elif path.is_file() and path.suffix.lower() == LIST_SUFFIX:
        yield from _named(_listed(path, download))
    elif path.is_file():
        yield Picture(source, path.stem, path.name)
    else:
        matching = glob.iglob(source, recursive=True)
        yield from _named(sorted(place for place in matching if Path(place).is_file()))


def _in_folder(top: Path, leave_out: Path | None) -> Iterator[Picture]:
    """Folder by folder, so that no more than the names in one of them are held at once."""
    left_out = None if leave_out is None else os.path.realpath(leave_out)
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(top, followlinks=True):
        status = os.stat(parent)
        is_output = os.path.realpath(parent) == left_out and Path(parent) != top
        if is_output or (status.st_dev, status.st_ino) in seen:  # or a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        pictures = sorted(
            f for f in files if os.path.splitext(f)[1].lower() in SUFFIXES and not f.startswith(".")
        )
        below = Path(parent).relative_to(top)
        names = _Names()
        for file in pictures:
            name = names.unique(os.path.splitext(file)[0])
            yield Picture(os.path.join(parent, file), (below / name).as_posix(), (below / file).as_posix())


def _named(places: Iterator[str] | list[str]) -> Iterator[Picture]:
    """Pictures from anywhere, under the names of their files."""
    names = _Names()
    for place in places:
        stem = (
            _name_of_address(place, "picture")
            if place.startswith(ADDRESSES)
            else os.path.splitext(os.path.basename(place))[0]
        )
        yield Picture(place, names.unique(stem), place)


class _Names:
    """Gives names, no two the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique(self, stem: str) -> str:
        """`stem`, or with -2, -3 … behind it where that is taken."""
        name = stem
        while name in self._taken:
            self._counts[stem] = self._counts.get(stem, 1) + 1
            name = f"{stem}-{self._counts[stem]}"
        self._taken.add(name)
        return name


def _listed(path: Path, download: bool) -> Iterator[str]:
    """The paths and addresses in a text file, one a line; relative ones from the folder of the file."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1):
            place = line.strip()
            if not place or place.startswith("#"):
                continue
            if len(line) > MAX_LINE or "\0" in place:
                raise ValueError(
                    f"{path}, line {number}, is not a path or an address; a list of pictures has one a line"
                )
            if place.startswith(ADDRESSES):
                if not download:
                    raise ValueError(
                        f"{path} lists addresses, the first in line {number}; give download=true to have them fetched"
                    )
                yield place
            else:
                yield str(path.parent / place)


def _is_picture_address(address: str) -> bool:
    return address.startswith(ADDRESSES) and PurePosixPath(urlsplit(address).path).suffix.lower() in SUFFIXES


def _name_of_address(address: str, otherwise: str) -> str:
    """The last part of the path, of characters that every file system takes."""
    stem = PurePosixPath(unquote(urlsplit(address).path)).stem
    return re.sub(r"[^\w.-]+", "_", stem)[:100].strip(".") or otherwise


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or none to the system
        return False
