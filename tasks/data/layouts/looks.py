"""What files are by their content, as far as a look at their ends and names tells, and which pictures they mean."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from tasks.data.formats.file_names import readings
from tasks.data.formats.label_studio import path_of
from tasks.data.formats.values import to_integer, to_number
from tasks.data.layouts.listing import Listing, common_folder, folder_of, split_of
from tasks.data.loading.storage import read_lines, read_text
from tasks.data.splits import SplitName

NUM_SAMPLES = 40
"""Names, or files, that are looked at to tell what all of a kind are."""


def kind_of_json(content: bytes) -> str | None:
    """See `json_kind`."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:4]:
        content = content.decode(json.detect_encoding(content), "replace").encode("utf-8", "replace")
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if (
        start == b"{"
        and b'"categories"' in content
        and (b'"images"' in content or b'"annotations"' in content)
    ):
        return "coco"
    if start == b"{" and b'"shapes"' in content and (b'"imagePath"' in content or b'"points"' in content):
        return "labelme"
    marks = (b'"result"', b'"rectanglelabels"', b'"polygonlabels"', b'"brushlabels"')
    if start == b"[" and any(mark in content for mark in marks):
        return "label_studio"
    return None


def json_kind(listing: Listing, name: str) -> str | None:
    """The format of a JSON file by the words in it: "coco", "labelme" or "label_studio"; None for another."""
    if name not in listing.kinds:
        listing.kinds[name] = kind_of_json(listing.ends(name))
    return listing.kinds[name]


def xml_kind(listing: Listing, name: str) -> str | None:
    """The format of an XML file by its first tag, "voc" or "cvat"; None for another."""
    content = listing.ends(name)[:65536]
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16", "replace").encode()
    found = re.search(rb"<(?:\w+:)?(annotations?)[\s>]", content)
    return None if found is None else "voc" if found.group(1) == b"annotation" else "cvat"


def is_data_yaml(listing: Listing, name: str) -> bool:
    """Whether a YAML file names classes and images."""
    content = listing.ends(name)
    return re.search(rb"^\s*[\"']?names[\"']?\s*:", content, re.M) is not None and (
        re.search(rb"^\s*[\"']?(train|val)[\"']?\s*:", content, re.M) is not None
    )


def label_texts(listing: Listing) -> list[str]:
    """Text files with the name of a picture, if those that are looked at hold YOLO's numbers."""
    stems = {PurePosixPath(name).stem.casefold() for name in listing.images}
    texts = [n for n in listing.by_ending.get(".txt", ()) if PurePosixPath(n).stem.casefold() in stems]
    looked_at = [read_start(listing, name) for name in texts[:NUM_SAMPLES]]
    full = [line for line in looked_at if line]
    is_numbers = [len(line) >= 5 and all(np.isfinite(to_number(word)) for word in line) for line in full]
    return texts if full and sum(is_numbers) * 2 > len(full) else []


def read_start(listing: Listing, name: str) -> list[str]:
    """The words of the first line of a text."""
    try:
        return next(
            (line.split() for line in read_text(listing.root / name).splitlines() if line.strip()), []
        )
    except (OSError, ValueError):
        return []


def highest_class(listing: Listing, name: str) -> int | None:
    """The highest number of a class in a file of labels, below a thousand; None without one."""
    try:
        numbers = [to_integer(line.split()[0]) for line in read_lines(listing.root / name)]
    except (OSError, ValueError):
        return None
    return max((number for number in numbers if number is not None and 0 <= number < 1000), default=None)


def image_folder(
    listing: Listing, file: str, split: SplitName | None, keys: Sequence[str] = ("file_name",)
) -> str:
    """The folder that the names below these keys of a JSON file are relative to, addresses among them."""
    key = "|".join(keys)
    pattern = rf'"(?:{key})"\s*:\s*"((?:[^"\\]|\\.)*)"'
    found = re.findall(pattern.encode(), listing.ends(file))
    names = []
    for text in found[:NUM_SAMPLES]:
        try:
            name = str(json.loads(b'"' + text + b'"'))
        except ValueError:
            continue
        names.append(path_of(name) if "/" in name and (name.startswith("/") or "://" in name) else name)
    return best_folder(listing, names, file, split)


def best_folder(listing: Listing, names: Sequence[str], file: str, split: SplitName | None) -> str:
    """The folder in which most of these images are, read as they may be meant; of equal ones that of the same split,
    then the one nearest to the annotation `file`. Where none has any, `split_images`."""
    wanted: dict[str, set[str]] = {}
    for name in names:
        for text, _ in readings(name):
            path = PurePosixPath(text.lstrip("/"))
            if path.parts and ".." not in path.parts:
                wanted.setdefault(path.as_posix(), set()).add(name)
    stems = {
        PurePosixPath(path).stem: by for path, by in wanted.items() if "." not in PurePosixPath(path).name
    }
    found: dict[str, set[str]] = {}
    deepest: Counter[str] = Counter()
    for image in listing.images:
        parts = image.split("/")
        for depth in range(len(parts)):
            inner = "/".join(parts[depth:])
            by = wanted.get(inner) or (
                stems.get(PurePosixPath(inner).stem) if depth == len(parts) - 1 else None
            )
            if by is not None:
                folder = "/".join(parts[:depth]) or "."
                found.setdefault(folder, set()).update(by)
                deepest[folder] = max(deepest[folder], len(parts) - depth)
    if not found:
        return split_images(listing, split, file)
    own = folder_of(file)
    return max(
        found,
        key=lambda folder: (
            len(found[folder]),
            split_of(folder) == split,
            folder == own or folder.startswith(f"{own}/"),
            deepest[folder],  # a name with its folders tells more than one without
            -len(PurePosixPath(folder).parts),
        ),
    )


def split_images(listing: Listing, split: SplitName | None, file: str) -> str:
    """The folder of the pictures of a split, or of those nearest to an annotation file."""
    folders = Counter(folder_of(image) for image in listing.images)
    own = folder_of(file)
    same = [folder for folder in folders if split is not None and split_of(folder) == split]
    near = [
        folder for folder in folders if folder == own or folder.startswith("" if own == "." else f"{own}/")
    ]
    return common_folder(same or near or folders or ["."])


def voc_folders(listing: Listing) -> list[str]:
    """Folders with JPEGImages and Annotations or masks in them."""
    found = {
        folder_of(folder_of(n)) for n in listing.images if PurePosixPath(folder_of(n)).name == "JPEGImages"
    }
    return sorted(
        base for base in found if any(n.endswith(".xml") for n in listing.by_ending[".xml"]
                                      if folder_of(n) == str(PurePosixPath(base, "Annotations")))
    )  # fmt: skip


def unescaped(text: bytes) -> str:
    """An attribute of XML as text."""
    from xml.sax.saxutils import unescape

    return unescape(text.decode("utf-8", "replace"), {"&quot;": '"', "&apos;": "'"})
