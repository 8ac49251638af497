"""Names of image files that tools write otherwise than the files are called, and the reading of them that fits."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.data.loading.storage import ImageStorage


def is_file_name(value: Any) -> bool:
    """Whether a value can be the name of a file."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return False
    try:
        return "\0" not in str(value) and bool(os.fsencode(str(value)))
    except (UnicodeEncodeError, ValueError):  # half of a surrogate pair, an integer of thousands of digits
        return False


def readings(name: str) -> Iterator[tuple[str, str]]:
    """What else the name may mean, likeliest first, and in words how it is read; may repeat itself."""
    separated = name.replace("\\", "/")
    decoded = unquote(separated)
    path = unquote(urlsplit(separated).path) if "://" in separated else decoded
    whole = [(separated, "\\ as /"), (decoded, "percent-decoded"), (path, "the path of an address")]
    last = [(PurePosixPath(text).name, "the last part alone") for text in (separated, decoded, path)]
    for text, how in [*whole, *last]:
        for form in ("NFC", "NFD"):
            yield text, how
            normal = unicodedata.normalize(form, text)
            yield normal, how if normal == text else f"in Unicode's form {form}"
            stem, suffix = os.path.splitext(normal)
            for other in (suffix.lower(), suffix.upper()):
                yield stem + other, how if other == suffix else f"with the ending {other}"


def fit_file_names(names: Sequence[str], store: ImageStorage, notes: list[str]) -> list[str]:
    """`names` with those that are not there replaced by the reading that is, if any, which `notes` then say.

    No two names are read as one file.
    """
    absent = set(store.missing(names)) | {name for name in set(names) if not store.is_inside(name)}
    if not absent:
        return list(names)
    candidates = {
        name: dict(reversed(list(readings(name)))) for name in absent
    }  # the first way to each is kept
    order = {name: list(dict.fromkeys(text for text, _ in readings(name))) for name in absent}
    possible = {
        text
        for texts in order.values()
        for text in texts
        if text not in ("", ".", "..") and not PurePosixPath(text).is_absolute()
        if ".." not in PurePosixPath(text).parts and store.is_inside(text)
    }
    there = possible - set(store.missing(sorted(possible)))
    fits = {name: next((text for text in order[name] if text in there), None) for name in absent}
    taken = Counter(text for text in fits.values() if text is not None)
    taken.update(set(names) - absent)
    fits = {name: text for name, text in fits.items() if text is not None and taken[text] == 1}
    if fits:
        how = sorted({candidates[name][text] for name, text in fits.items()})
        name, text = min(fits.items())
        notes.append(
            f"{sum(name in fits for name in names)} of {len(names)} image names are read as they fit a file "
            f"({', '.join(how)}): '{name}' is '{text}'"
        )
    return [fits.get(name, name) for name in names]
