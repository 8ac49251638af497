"""Damaged zip and tar files of pictures; whatever they claim, one file is read at a time and no byte more."""

import io
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tasks.data.loading.images import Reading
from tasks.data.loading.storage import ArchiveStorage
from tests.fuzz.images import genuine as pictures
from tests.fuzz.mutation import damage

READING = Reading(max_pixels=1_000_000)


class Input(NamedTuple):
    """One archive."""

    name: str
    file: str
    content: bytes


def inputs(seed: int) -> Iterator[Input]:
    """Archives without end; the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        name, content = rng.choice(genuine())
        spoilt = damage(content, rng)
        if name.endswith(".zip") and rng.random() < 0.5:  # the list of contents stands at the end
            start = content.find(b"PK\x01\x02")
            spoilt = content[:start] + damage(content[start:], rng)
        elif name.endswith(".tar") and rng.random() < 0.5:  # headers have 512 bytes
            spoilt = damage(content[:512], rng).ljust(512, b"\0")[:512] + content[512:]
        yield Input(f"damaged {name}", name, spoilt)


def check(given: Input) -> str:
    """What is wrong with how the archive is read; "" for nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / given.file
        path.write_bytes(given.content)
        try:
            store = ArchiveStorage(path, "", READING)
        except ValueError as error:
            return "" if given.file in str(error) else f"the message names no file: {error}"
        for name in store.names():
            try:
                content = store.read(name)
            except ValueError as error:
                if given.file not in str(error):
                    return f"the message names no file: {error}"
                continue
            if len(content) > READING.max_bytes:
                return f"'{name}' was read with {len(content)} bytes"
            try:
                store.image(name)
            except ValueError as error:
                if "\n" in str(error):
                    return f"the message has more than a line: {error}"
    return ""


@cache
def genuine() -> list[tuple[str, bytes]]:
    """Name and content of sound archives, and of two that claim more than they should."""
    found = []
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for file, content in pictures()[:4]:
                archive.writestr(f"deep/{file}", content)
        found.append((name, buffer.getvalue()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(20_000_000))
    found.append(("bomb.zip", buffer.getvalue()))
    for name, form in (("gnu.tar", tarfile.GNU_FORMAT), ("pax.tar", tarfile.PAX_FORMAT)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for file, content in pictures()[:3]:
                info = tarfile.TarInfo(f"ü/{'x' * 120}{file}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        found.append((name, buffer.getvalue()))
    return found
