"""Names of image files that tools write otherwise than the files are called, and the reading of them that fits."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.data.loading.images import Reading
from tasks.data.loading.storage import ImageStorage, open_images, outside, read_lines

UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of a file that is uploaded."""


def is_file_name(value: Any) -> bool:
    """Whether a value can be the name of a file."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return False
    try:
        return "\0" not in str(value) and bool(os.fsencode(str(value)))
    except (UnicodeEncodeError, ValueError):  # half of a surrogate pair, an integer of thousands of digits
        return False


def check_inside(path: Path, store: ImageStorage) -> None:
    """Raises ValueError where a file of labels is outside the data set, whose images `store` has."""
    if not store.is_inside(str(path.absolute())):
        raise ValueError(
            f"labels '{path}' are outside the data set; move them there, or pass data.allow_outside=true to read them "
            "where they are"
        )


def read_own_lines(path: Path, reading: Reading) -> list[str]:
    """Lines, as `read_lines` has them, of a text of the data set in `reading.root` itself: its classes, or a list. What
    they say gets into model files, so one of somebody else's files is not followed: ValueError."""
    if not open_images(reading.root or path.parent, reading).is_inside(str(path.absolute())):
        raise outside(f"'{path}' leads out of the data set", "put the text itself there")
    return read_lines(path)


def readings(name: str) -> Iterator[tuple[str, str]]:
    """What else the name may mean, likeliest first, and in words how it is read; may repeat itself."""
    separated = name.replace("\\", "/")
    decoded = unquote(separated)
    path = unquote(path_of_address(separated)) if "://" in separated else decoded
    whole = [(separated, "\\ as /"), (decoded, "percent-decoded"), (path, "the path of an address")]
    last = [(PurePosixPath(text).name, "the last part alone") for text in (separated, decoded, path)]
    uploaded = [(UPLOAD.sub("", text), "without the mark of an upload") for text, _ in last]
    for text, how in [*whole, *last, *uploaded]:
        for form in ("NFC", "NFD"):
            yield text, how
            normal = unicodedata.normalize(form, text)
            yield normal, how if normal == text else f"in Unicode's form {form}"
            stem, suffix = os.path.splitext(normal)
            for other in (suffix.lower(), suffix.upper()):
                yield stem + other, how if other == suffix else f"with the ending {other}"


def path_of_address(address: str) -> str:
    """The path in an address; all of what is none."""
    try:
        return urlsplit(address).path
    except ValueError:  # such as of brackets around no address of version 6
        return address


def fit_file_names(names: Sequence[str], store: ImageStorage, notes: list[str]) -> list[str]:
    """`names` with those that are not there replaced by the reading that is, if any, which `notes` then say.

    No two names are read as one file.
    """
    absent = set(store.missing(names)) | set(store.outside(names))
    if not absent:
        return list(names)
    ways: dict[str, dict[str, str]] = {name: {} for name in absent}
    for name, how_by_text in ways.items():
        for text, how in readings(name):
            how_by_text.setdefault(text, how)  # the first way to each
    possible = {
        text
        for texts in ways.values()
        for text in texts
        if text not in ("", ".", "..") and not PurePosixPath(text).is_absolute()
        if ".." not in PurePosixPath(text).parts and store.is_inside(text)
    }
    there = possible - set(store.missing(sorted(possible)))
    fits = {name: next((text for text in texts if text in there), None) for name, texts in ways.items()}
    taken = Counter(text for text in fits.values() if text is not None)
    taken.update(set(names) - absent)
    fits = {name: text for name, text in fits.items() if text is not None and taken[text] == 1}
    if fits:
        how = sorted({ways[name][text] for name, text in fits.items()})
        name, text = min(fits.items())
        notes.append(
            f"{sum(name in fits for name in names)} of {len(names)} image names are read as they fit a file "
            f"({', '.join(how)}): '{name}' is '{text}'"
        )
    return [fits.get(name, name) for name in names]


def pair_names(labels: Sequence[str], images: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The image of each file of labels, by its path without ending; and those that several images share, with why not.

    An exact path comes before one that differs in case or in Unicode's form, and that before the name alone."""
    found: dict[str, str] = {}
    shared: dict[str, str] = {}
    for key in (without_ending, folded, last_part):
        by_key: dict[str, list[str]] = {}
        for image in images:
            by_key.setdefault(key(image), []).append(image)
        claims = Counter(key(label) for label in labels)
        taken = set(found.values())
        for label in labels:
            if label in found or label in shared or claims[key(label)] > 1:
                continue
            same = [image for image in by_key.get(key(label), ()) if image not in taken]
            if len(same) == 1:
                found[label] = same[0]
            elif len(same) > 1 and key is not last_part:
                shared[label] = (
                    f"'{same[0]}' and '{same[1]}' would both have the labels '{label}'; rename one"
                )
    return found, shared


def without_ending(path: str) -> str:
    """The path of a file without its ending, in Unicode's composed form."""
    return unicodedata.normalize("NFC", os.path.splitext(path)[0])


def folded(path: str) -> str:
    """The same in lower case."""
    return without_ending(path).casefold()


def last_part(path: str) -> str:
    """The name alone of that."""
    return folded(path).rpartition("/")[2]
