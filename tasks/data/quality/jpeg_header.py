"""Size and EXIF orientation of an ordinary JPEG from its first bytes: a fifth of what opening it with PIL takes.

What is not quite ordinary is left to PIL, which says what is wrong with it.
"""

import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

HEAD = 4096
TAIL = 4096
FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Markers of the frames that decoders know: baseline, extended and progressive."""
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a segment."""
EXIF = b"Exif\0\0"
ORIENTATION = 0x0112


class JpegHeader(NamedTuple):
    """What the first bytes say."""

    width: int
    height: int
    orientation: int
    """EXIF's; 1 for none."""


def read_ends(path: Path) -> tuple[bytes, bytes, int]:
    """The first and last 4096 bytes of a file, and its size. Raises what opening it does, OSError for what is none."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a file")
        size = status.st_size
        head = os.pread(descriptor, HEAD, 0)
        tail = head[-TAIL:] if size <= HEAD else os.pread(descriptor, TAIL, max(0, size - TAIL))
        return head, tail, size
    finally:
        os.close(descriptor)


def jpeg_header(head: bytes) -> JpegHeader | None:
    """None for what is no JPEG, or one that the first bytes do not tell everything of."""
    if not head.startswith(b"\xff\xd8\xff"):
        return None
    place, orientation = 2, 1
    while place + 10 <= len(head):
        if head[place] != 0xFF:
            return None
        marker = head[place + 1]
        if marker in ALONE or marker == 0xFF:
            return None  # PIL knows what it means here
        (length,) = struct.unpack_from(">H", head, place + 2)
        if marker in FRAMES:
            precision, height, width, channels = struct.unpack_from(">BHHB", head, place + 4)
            is_ordinary = precision == 8 and channels in (1, 3, 4) and height > 0 and width > 0
            return JpegHeader(width, height, orientation) if is_ordinary else None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        if marker in (0xE1, 0xE2):
            segment = head[place + 4 : place + 2 + length]
            if len(segment) < length - 2 or segment.startswith(b"MPF\0"):
                return None
            if segment.startswith(EXIF):
                found = exif_orientation(segment[len(EXIF) :])
                if found is None:
                    return None
                orientation = found
            elif b"Orientation" in segment:  # of XMP
                return None
        place += 2 + length
    return None


def exif_orientation(tiff: bytes) -> int | None:
    """The orientation in EXIF's first directory, 1 where it has none; None where that cannot be told."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    if start + 2 + 12 * count > len(tiff):
        return None
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == ORIENTATION:
            return value if kind == 3 and values == 1 and 1 <= value <= 8 else None
    return 1
