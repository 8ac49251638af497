"""Where pictures lie: a folder, or a tar or zip file or a folder inside one, read by name.

A path may lead into an archive: images/train2017.zip/train2017 is the folder train2017 in that file. An archive's
list of contents is kept in flat arrays, and its bytes are read by position, so that threads and forked processes can
share one open file.
"""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from tasks.data.loading.images import read_image

ShownAt = Callable[[int, int], tuple[int, int]]
"""From an image's height and width to those it will be resized to."""
ARCHIVES = frozenset({".tar", ".zip"})
"""Endings, in lower case, of files that are taken for archives of pictures."""


class ImageStore(Protocol):
    """Pictures by name; names are relative, with `/` between folders."""

    def image(self, name: str, shown_at: ShownAt | None = None) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright; `shown_at` as in `read_image`. Raises what `read_image` does."""
        ...

    def read(self, name: str) -> bytes:
        """The file as it is. Raises FileNotFoundError where there is none."""
        ...

    def names(self) -> list[str]:
        """Names of all files, sorted, hidden ones left out."""
        ...

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are not there, in their order."""
        ...


class FolderStore:
    """Pictures below a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def image(self, name: str, shown_at: ShownAt | None = None) -> np.ndarray:
        return read_image(self.folder / name, shown_at=shown_at)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def names(self) -> list[str]:
        found = []
        for parent, folders, files in os.walk(self.folder, followlinks=True):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            place = Path(parent).relative_to(self.folder)
            found += [(place / file).as_posix() for file in files if not file.startswith(".")]
        return sorted(found)

    def missing(self, names: Sequence[str]) -> list[str]:
        # Lists each folder once: asking for every file by itself takes minutes on a network disk.
        listed: dict[str, set[str]] = {}
        absent = []
        for name in names:
            path = PurePosixPath(name)
            parent = str(path.parent)
            if parent not in listed:
                try:
                    with os.scandir(self.folder / parent) as entries:
                        listed[parent] = {entry.name for entry in entries}
                except (FileNotFoundError, NotADirectoryError):
                    listed[parent] = set()
            if path.name not in listed[parent]:
                absent.append(name)
        return absent


class ArchiveStore:
    """Pictures in a tar or zip file, which is not unpacked; with `folder`, those in that folder of it.

    Raises ValueError where the file is neither, or a tar compressed as a whole, whose pictures could only be
    reached by unpacking all before them.
    """

    def __init__(self, path: Path, folder: str = ""):
        self.path = path
        self.folder = folder
        self._file: int | None = None
        self._is_zip = zipfile.is_zipfile(path)
        entries = self._zip_entries() if self._is_zip else self._tar_entries()
        if folder:
            before = f"{folder}/"
            entries = [(n.removeprefix(before), *rest) for n, *rest in entries if n.startswith(before)]
        entries.sort()
        self._names = np.array([name.encode() for name, _, _ in entries], "S")
        self._starts = np.array([start for _, start, _ in entries], np.int64)
        self._lengths = np.array([length for _, _, length in entries], np.int64)

    def image(self, name: str, shown_at: ShownAt | None = None) -> np.ndarray:
        place = str(self.path / self.folder / name)
        return read_image(io.BytesIO(self.read(name)), name=place, shown_at=shown_at)

    def read(self, name: str) -> bytes:
        place = str(self.path / self.folder / name)
        row = self._row(name)
        if row is None:
            raise FileNotFoundError(f"image file '{place}' does not exist")
        return self._bytes(row, place)

    def names(self) -> list[str]:
        return [name.decode() for name in self._names.tolist() if not is_hidden(name.decode())]

    def missing(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self._row(name) is None]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}  # an open file stays in its process

    def _row(self, name: str) -> int | None:
        wanted = os.path.normpath(name).encode()
        # The last of several of one name, which stands behind what it replaces.
        row = int(np.searchsorted(self._names, np.array(wanted, "S"), side="right")) - 1
        return row if row >= 0 and self._names[row] == wanted else None

    def _bytes(self, row: int, place: str) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        start, length = int(self._starts[row]), int(self._lengths[row])
        if not self._is_zip:
            return os.pread(self._file, length, start)
        # A zip's own list does not say how long the header before a file is; that header does.
        header = os.pread(self._file, 30, start)
        method, name_length, extra_length = struct.unpack("<8xH16xHH", header)
        content = os.pread(self._file, length, start + 30 + name_length + extra_length)
        if method == zipfile.ZIP_STORED:
            return content
        if method == zipfile.ZIP_DEFLATED:
            return zlib.decompress(content, -zlib.MAX_WBITS)
        raise ValueError(
            f"'{place}' is compressed by method {method}, which is not read; pack the images again without "
            "compression, which gains nothing on pictures: zip -0"
        )

    def _zip_entries(self) -> list[tuple[str, int, int]]:
        with zipfile.ZipFile(self.path) as archive:
            return [
                (os.path.normpath(entry.filename), entry.header_offset, entry.compress_size)
                for entry in archive.infolist()
                if not entry.is_dir()
            ]

    def _tar_entries(self) -> list[tuple[str, int, int]]:
        try:
            with tarfile.open(self.path, "r:") as archive:
                return [
                    (os.path.normpath(member.name), member.offset_data, member.size)
                    for member in archive
                    if member.isfile()
                ]
        except tarfile.ReadError as error:
            raise ValueError(
                f"'{self.path}' is no zip and no plain tar file ({error}); pack the images again without "
                "compression, which gains nothing on pictures: tar -cf"
            ) from error


def open_store(path: Path) -> ImageStore:
    """The pictures in the folder, or in the archive or the folder inside one, at `path`."""
    place = in_archive(path)
    return FolderStore(path) if place is None else open_archive(*place, place[0].stat().st_mtime_ns)


@lru_cache(maxsize=8)
def open_archive(path: Path, folder: str, changed: int) -> ArchiveStore:
    """The archive, whose list of contents is read once; anew where it was `changed` since."""
    return ArchiveStore(path, folder)


def read_file(path: Path) -> bytes:
    """The file at `path`, which may lie in an archive. Raises FileNotFoundError where there is none."""
    place = in_archive(path)
    if place is None or not place[1]:
        return path.read_bytes()
    return open_store(place[0]).read(place[1])


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8 that are not blank, without blanks around them. Raises what `read_file` does, and
    UnicodeDecodeError."""
    return [line.strip() for line in read_file(path).decode("utf-8").splitlines() if line.strip()]


def opened(path: Path) -> Path | io.BytesIO:
    """What PIL can open: the path itself, or the content of a file in an archive."""
    return path if in_archive(path) is None else io.BytesIO(read_file(path))


def is_file(path: Path) -> bool:
    """Whether there is such a file, which may lie in an archive."""
    place = in_archive(path)
    if place is None or not place[1]:
        return path.is_file()
    return not open_store(place[0]).missing([place[1]])


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, or an archive or a folder in one with anything in it."""
    return path.is_dir() or (in_archive(path) is not None and bool(open_store(path).names()))


def is_store(path: Path) -> bool:
    """Whether `path` is a folder, or leads to or into an archive."""
    return path.is_dir() or in_archive(path) is not None


def in_archive(path: Path) -> tuple[Path, str] | None:
    """The archive that `path` leads to or into, and the folder inside it, "" for all of it; None for no archive."""
    for place in (path, *path.parents):
        if place.suffix.lower() in ARCHIVES and place.is_file():
            folder = path.relative_to(place).as_posix()
            return place, "" if folder == "." else folder
    return None


def is_hidden(name: str) -> bool:
    """Whether the file, or a folder that it is in, has a name that begins with a dot (or macOS's shadow of one)."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
