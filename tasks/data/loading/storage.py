"""Where pictures lie: a folder, or a tar or zip file or a folder inside one, read by name.

A path may lead into an archive: images/train2017.zip/train2017 is the folder train2017 in that file. An archive's
list of contents is kept in flat arrays, and its bytes are read by position, so that threads and forked processes can
share one open file.
"""

import bisect
import codecs
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np

from tasks.data.loading.images import (
    DEFAULT_READING,
    SUFFIXES,
    ImageError,
    Pixels,
    Reading,
    decode_image,
    read_image,
    read_regular,
)

ShownAt = Callable[[int, int], tuple[int, int]]
"""From an image's height and width to those it will be resized to."""
ARCHIVES = frozenset({".tar", ".zip"})
"""Endings, in lower case, of files that are taken for archives of pictures."""
MAX_TEXT_BYTES = 64 * 2**20
"""Of a file of labels, an XML file, a list of images or a data.yaml; a list of a million paths has less."""
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""Of compression in a zip, that are read."""
LOCAL_HEADER = b"PK\x03\x04"
IS_ENCRYPTED = 1
"""Bit of a zip's flags."""


class OutsideError(ImageError):
    """A file that is not read because it is not in the data set."""


def outside(what: str, remedy: str = "move it there") -> OutsideError:
    """What is raised for a file that is not in the data set."""
    return OutsideError(f"{what}; {remedy}, or pass data.allow_outside=true to read it where it is")


class ImageStorage(Protocol):
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
        """Those of `names` that are not there, in their order; of files outside the data set nothing is said."""
        ...

    def outside(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are not in the data set, in their order."""
        ...

    def source(self, name: str) -> Path | bytes:
        """What the picture's header can be read from: its path, or its content. Raises what `read` does, and
        OutsideError for a file that is not in the data set."""
        ...

    def pixels(self, name: str) -> Pixels:
        """The picture, and what is odd about its values. Raises what `image` does."""
        ...

    def num_bytes(self, name: str) -> int:
        """Size of the file, 0 where there is none."""
        ...

    def is_inside(self, name: str) -> bool:
        """Whether the file is in the data set, or may be anywhere."""
        ...

    @property
    def reading(self) -> Reading:
        """How its files are read."""
        ...


class FolderStorage:
    """Pictures below a folder. A name that leads out of it, and out of `reading.root`, is not followed."""

    def __init__(self, folder: Path, reading: Reading = DEFAULT_READING):
        self.folder = folder
        self.reading = reading
        bases = [folder, *([] if reading.root is None else [reading.root])]
        self._bases = [os.path.realpath(base) for base in bases]
        self._is_inside: dict[str, bool] = {}  # by folder

    def image(self, name: str, shown_at: ShownAt | None = None) -> np.ndarray:
        return read_image(self.path(name), shown_at=shown_at, reading=self.reading)

    def pixels(self, name: str) -> Pixels:
        return decode_image(self.read(name), str(self.folder / name), reading=self.reading)

    def read(self, name: str) -> bytes:
        return read_regular(self.path(name), self.reading.max_bytes)

    def source(self, name: str) -> Path:
        return self.path(name)

    def num_bytes(self, name: str) -> int:
        try:
            return self.path(name).stat().st_size
        except (OSError, ValueError):
            return 0

    def path(self, name: str) -> Path:
        """Where the file is. Raises OutsideError where that is not in the data set."""
        path = self.folder / name
        if not self.is_inside(name):
            raise outside(f"image file '{path}' is outside the data set in '{self.folder}'")
        return path

    def is_inside(self, name: str) -> bool:
        """Whether the file is in the data set, or may be anywhere."""
        if self.reading.allow_outside:
            return True
        path = os.path.join(self.folder, name)
        parent = os.path.dirname(path)
        if parent not in self._is_inside:
            self._is_inside[parent] = self._holds(parent)
        if self._is_inside[parent]:
            return not os.path.islink(path) or self._holds(path)
        return os.path.realpath(path) in self._bases  # one of the folders themselves

    def _holds(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == base or real.startswith(base.rstrip(os.sep) + os.sep) for base in self._bases)

    def names(self) -> list[str]:
        return files_below(self.folder)

    def missing(self, names: Sequence[str]) -> list[str]:
        return self._look_for(names)[0]

    def outside(self, names: Sequence[str]) -> list[str]:
        return self._look_for(names)[1]

    def _look_for(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Names of no file, and those of files outside the data set, of which no more is said."""
        # Lists each folder once: asking for every file by itself takes minutes on a network disk.
        listed: dict[str, dict[str, bool]] = {}
        absent: list[str] = []
        beyond: list[str] = []
        for name in names:
            parent, _, last = name.rpartition("/")
            if last in ("", ".", ".."):
                parent, last = str(PurePosixPath(name).parent), PurePosixPath(name).name
            if parent not in listed:
                listed[parent] = self._list(parent)
            is_plain = listed[parent].get(last)  # not a link, whose place counts
            if is_plain is not True and not self.is_inside(name):
                beyond.append(name)
            elif is_plain is None:
                absent.append(name)
        return absent, beyond

    def _list(self, parent: str) -> dict[str, bool]:
        """The files of a folder, and whether each is known to be in the data set."""
        path = os.path.join(self.folder, parent)
        try:
            is_ours = self.reading.allow_outside or self._holds(path)
            with os.scandir(path) as entries:
                return {entry.name: is_ours and not entry.is_symlink() for entry in entries}
        except (OSError, ValueError):
            return {}


def files_below(top: Path, most: int | None = None) -> list[str]:
    """All files below a folder by their paths relative to it, sorted; hidden ones left out.

    A folder is looked into once, under a name of its own before those of links to it. Links that lead back to `top`, or
    to where that is in, are not followed.

    Raises:
        PermissionError: a folder must not be read; "lost+found", which none but root may, is left out.
        ValueError: there are more than `most` files.
    """
    found: list[str] = []
    seen: set[str] = set()
    folders, links = [""], list[str]()
    real_top = os.path.realpath(top)
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(os.path.join(top, place))
        if real in seen or (place and f"{real_top}/".startswith(f"{real.rstrip('/')}/")):
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(os.path.join(top, place)), key=lambda entry: entry.name)
        except PermissionError:
            if os.path.basename(place) == "lost+found":
                continue
            raise
        except OSError:  # gone, or no folder at all
            continue
        for entry in entries:
            name = f"{place}/{entry.name}" if place else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(name)
            else:
                found.append(name)
        if most is not None and len(found) > most:
            raise ValueError(f"'{top}' holds more than {most} files; give the data set's own folder")
    return sorted(found)


class ArchiveStorage:
    """Pictures in a tar or zip file, which is not unpacked; with `folder`, those in that folder of it.

    Raises ValueError where the file is neither, or a tar compressed as a whole, whose pictures could only be
    reached by unpacking all before them.
    """

    def __init__(self, path: Path, folder: str = "", reading: Reading = DEFAULT_READING):
        self.path = path
        self.folder = folder
        self.reading = reading
        self._file: int | None = None
        self._is_zip = zipfile.is_zipfile(path)
        entries = self._zip_entries() if self._is_zip else self._tar_entries()
        if self._is_zip and entries and not any(entry.method in METHODS for entry in entries):
            raise ImageError(unread_method(str(path), entries[0].method))
        if folder:
            before = os.fsencode(f"{folder}/")
            entries = [e._replace(name=e.name[len(before) :]) for e in entries if e.name.startswith(before)]
        entries.sort(key=lambda entry: (entry.name, entry.start))
        # One string of bytes, not an array of names: that would have the width of the longest for each of them.
        self._all_names = b"".join(entry.name for entry in entries)
        self._name_ends = np.cumsum([0, *(len(entry.name) for entry in entries)])
        self._places = np.array([entry[1:] for entry in entries], np.int64).reshape(
            -1, len(Entry._fields) - 1
        )

    def image(self, name: str, shown_at: ShownAt | None = None) -> np.ndarray:
        with io.BytesIO(self.read(name)) as file:
            return read_image(file, name=self._place(name), shown_at=shown_at, reading=self.reading)

    def pixels(self, name: str) -> Pixels:
        return decode_image(self.read(name), self._place(name), reading=self.reading)

    def read(self, name: str) -> bytes:
        place = self._place(name)
        row = self._row(name)
        if row is None:
            raise FileNotFoundError(f"image file '{place}' does not exist")
        return self._bytes(row, place)

    def source(self, name: str) -> bytes:
        return self.read(name)

    def is_inside(self, name: str) -> bool:
        return True  # no name leads out of an archive

    def num_bytes(self, name: str) -> int:
        row = self._row(name)
        return 0 if row is None else Entry(b"", *self._places[row].tolist()).size

    def names(self) -> list[str]:
        every = (os.fsdecode(self._name(row)) for row in range(len(self._places)))
        return [name for name in every if not is_hidden(name)]

    def missing(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self._row(name) is None]

    def outside(self, names: Sequence[str]) -> list[str]:
        return []  # no name leads out of an archive

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}  # an open file stays in its process

    def _place(self, name: str) -> str:
        return str(self.path / self.folder / name)

    def _name(self, row: int) -> bytes:
        return self._all_names[self._name_ends[row] : self._name_ends[row + 1]]

    def _row(self, name: str) -> int | None:
        wanted = os.fsencode(os.path.normpath(name))
        # The last of several of one name, which stands behind what it replaces.
        row = bisect.bisect_right(range(len(self._places)), wanted, key=self._name) - 1
        return row if row >= 0 and self._name(row) == wanted else None

    def _bytes(self, row: int, place: str) -> bytes:
        """The file, unpacked. Raises ImageError where the archive is damaged, or the file too large or encrypted."""
        entry = Entry(b"", *self._places[row].tolist())
        if entry.size > self.reading.max_bytes:
            raise ImageError(
                f"'{place}' has {entry.size} bytes, more than the {self.reading.max_bytes} that are read of a file; if "
                "it is what it should be, raise max_pixels= (data.max_pixels= of a data set)"
            )
        if not self._is_zip:
            return self._pread(entry.size, entry.start, place)
        if entry.flags & IS_ENCRYPTED:
            raise ImageError(f"'{place}' is encrypted; pack the images again without a password")
        # A zip's own list does not say how long the header before a file is; that header does.
        header = self._pread(30, entry.start, place)
        if not header.startswith(LOCAL_HEADER):
            raise damaged(place, "its header is missing")
        name_length, extra_length = struct.unpack("<26xHH", header)
        if entry.method not in METHODS:
            raise ImageError(unread_method(place, entry.method))
        content = self._pread(entry.packed, entry.start + 30 + name_length + extra_length, place)
        if entry.method == zipfile.ZIP_DEFLATED:
            try:
                unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
                content = unpacking.decompress(content, entry.size + 1)  # and no byte more, whatever comes
            except zlib.error as error:
                raise damaged(place, str(error)) from error
        if len(content) != entry.size:
            raise damaged(place, f"it is not of the {entry.size} bytes that the archive says")
        if zlib.crc32(content) != entry.checksum:
            raise damaged(place, "its checksum is wrong")
        return content

    def _pread(self, length: int, start: int, place: str) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        if start + length > os.fstat(self._file).st_size:  # before so much memory is asked for
            raise damaged(place, "it ends behind the end of the archive")
        return os.pread(self._file, length, start)

    def _zip_entries(self) -> list["Entry"]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return [
                    Entry(
                        os.fsencode(os.path.normpath(entry.filename)),
                        entry.header_offset,
                        entry.compress_size,
                        entry.file_size,
                        entry.CRC,
                        entry.compress_type,
                        entry.flag_bits,
                    )
                    for entry in archive.infolist()
                    if not entry.is_dir() and entry.header_offset >= 0
                ]
        except FileNotFoundError:
            raise
        except Exception as error:  # of a damaged list: BadZipFile, struct.error, UnicodeError, …
            raise ImageError(
                f"'{self.path}' is a zip file that cannot be read ({error}); it is damaged: pack the images again"
            ) from error

    def _tar_entries(self) -> list["Entry"]:
        try:
            with tarfile.open(self.path, "r:") as archive:
                return [
                    Entry(
                        os.fsencode(os.path.normpath(member.name)),
                        member.offset_data,
                        member.size,
                        member.size,
                    )
                    for member in archive
                    if member.isfile() and not member.issparse() and member.size >= 0
                ]
        except FileNotFoundError:
            raise
        except Exception as error:  # of a damaged header: tarfile.ReadError, ValueError, OverflowError, …
            raise ImageError(
                f"'{self.path}' is no zip and no plain tar file ({error}); pack the images again without "
                "compression, which gains nothing on pictures: tar -cf"
            ) from error


class Entry(NamedTuple):
    """A file in an archive."""

    name: bytes
    start: int
    """Of a zip's header before the file, of a tar's file itself."""
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes of the file."""
    checksum: int = 0
    """CRC-32 of the file, in a zip."""
    method: int = 0
    flags: int = 0


def unread_method(place: str, method: int) -> str:
    """What is said of a file in an archive, or of one with such files alone."""
    return (
        f"'{place}' is compressed by method {method}, which is not read; pack the images again without compression, "
        "which gains nothing on pictures: zip -0"
    )


def damaged(place: str, why: str) -> ImageError:
    """What is raised for a file that an archive does not hold as it says."""
    return ImageError(f"'{place}' cannot be unpacked ({why}); the archive is damaged: pack the images again")


def open_images(path: Path, reading: Reading = DEFAULT_READING) -> ImageStorage:
    """The pictures in the folder, or in the archive or the folder inside one, at `path`."""
    place = in_archive(path)
    if place is None:
        return FolderStorage(path, reading)
    return open_archive(*place, place[0].stat().st_mtime_ns, reading)


@lru_cache(maxsize=8)
def open_archive(path: Path, folder: str, changed: int, reading: Reading) -> ArchiveStorage:
    """The archive, whose list of contents is read once; anew where it was `changed` since."""
    return ArchiveStorage(path, folder, reading)


def image_names(storage: ImageStorage) -> list[str]:
    """Names of the files that their ending calls pictures, sorted."""
    return [name for name in storage.names() if os.path.splitext(name)[1].lower() in SUFFIXES]


def read_file(path: Path, max_bytes: int | None = None) -> bytes:
    """The file at `path`, which may lie in an archive. Raises FileNotFoundError where there is none, ValueError where
    it is no file or has more than `max_bytes`."""
    place = in_archive(path)
    if place is None or not place[1]:
        return read_regular(path, max_bytes)
    store = open_images(place[0])
    if max_bytes is not None and store.num_bytes(place[1]) > max_bytes:
        raise ImageError(
            f"file '{path}' has {store.num_bytes(place[1])} bytes, more than the {max_bytes} that are read"
        )
    return store.read(place[1])


def read_text(path: Path) -> str:
    """The text at `path`, which may lie in an archive. Raises what `read_file` and `decode_text` do."""
    return decode_text(read_file(path, MAX_TEXT_BYTES), path)


def decode_text(content: bytes, path: Path) -> str:
    """Text in UTF-8, with a byte order mark or without, or in UTF-16 or UTF-32 with one.

    Raises ValueError, which names the file at `path` that it is the content of, where it is none of these.
    """
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # begins as UTF-16's does
        encoding = "utf-32"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{path}' is no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"'{path}' is no text in UTF-8 (it holds zero bytes); save it as UTF-8")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not blank, without blanks around them. Raises what `read_text` does."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def is_file(path: Path) -> bool:
    """Whether there is such a file, which may lie in an archive."""
    place = in_archive(path)
    if place is None or not place[1]:
        return os.path.isfile(path)
    return not open_images(place[0]).missing([place[1]])


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, or an archive or a folder in one with anything in it."""
    return os.path.isdir(path) or (in_archive(path) is not None and bool(open_images(path).names()))


def is_image_root(path: Path) -> bool:
    """Whether `path` is a folder, or leads to or into an archive."""
    return os.path.isdir(path) or in_archive(path) is not None


def in_archive(path: Path) -> tuple[Path, str] | None:
    """The archive that `path` leads to or into, and the folder inside it, "" for all of it; None for no archive."""
    for place in (path, *path.parents):
        if place.suffix.lower() in ARCHIVES and os.path.isfile(place):
            folder = path.relative_to(place).as_posix()
            return place, "" if folder == "." else folder
    return None


def is_hidden(name: str) -> bool:
    """Whether the file, or a folder that it is in, has a name that begins with a dot (or macOS's shadow of one)."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
