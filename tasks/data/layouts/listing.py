"""What lies in a folder or an archive, and which of it belongs together by its names."""

import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tasks.data.formats.file_names import folded
from tasks.data.loading.images import SUFFIXES, read_regular
from tasks.data.loading.storage import (
    ARCHIVES,
    files_below,
    in_archive,
    is_hidden,
    open_images,
    read_file,
)
from tasks.data.splits import SplitName

MAX_FILES = 2_000_000
"""Of a folder that is looked at; a data set has fewer."""
SPLIT_WORDS: Mapping[str, SplitName] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What folders and files of splits are called, ..."""
SPLIT_ENDINGS = ("annot", "annotations", "labels", "masks", "images", "imgs", "set")
"""... and what may follow without a gap, as in CamVid's trainannot."""
ENDS = 2**20
"""Bytes that are read of each end of a large file."""


@dataclass
class Listing:
    """The files below a folder, or in an archive, by their paths relative to it."""

    root: Path
    names: list[str]
    """Sorted; hidden ones left out."""
    only: str | None = None
    """The annotation file that was asked for, if one was."""
    images: list[str] = field(init=False)
    """Those that are pictures by their ending."""
    by_ending: dict[str, list[str]] = field(init=False)
    kinds: dict[str, str | None] = field(default_factory=dict)
    """The formats of JSON files that were looked at."""

    def __post_init__(self) -> None:
        self.by_ending = defaultdict(list)
        for name in self.names:
            self.by_ending[os.path.splitext(name)[1].lower()].append(name)
        self.images = sorted(name for ending in SUFFIXES for name in self.by_ending.get(ending, ()))

    def ending(self, *endings: str) -> list[str]:
        """The files with one of these endings; of annotation files only that which was asked for."""
        found = [name for ending in endings for name in self.by_ending.get(ending, ())]
        return found if self.only is None else [name for name in found if name == self.only]

    def ends(self, name: str) -> bytes:
        """The file, or the first and last MiB of a large one; b"" of one that cannot be read."""
        try:
            if in_archive(self.root) is not None:
                content = read_file(self.root / name, 2**31)
                return content if len(content) <= 32 * ENDS else content[:ENDS] + content[-ENDS:]
            path = self.root / name
            if path.stat().st_size <= 32 * ENDS:
                return read_regular(path)
            with path.open("rb") as file:
                first = file.read(ENDS)
                file.seek(-ENDS, os.SEEK_END)
                return first + file.read()
        except (OSError, ValueError):
            return b""

    def has_folder(self, folder: str) -> bool:
        """Whether there is anything in it."""
        return any(name.startswith(f"{folder}/") for name in self.names)

    def seen(self) -> str:
        """In a few words, what there is."""
        if not self.names:
            return "it holds no files"
        endings = Counter(
            {ending or "no ending": len(names) for ending, names in self.by_ending.items() if names}
        )
        tops = Counter(name.split("/")[0] + "/" for name in self.names if "/" in name)
        kinds = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(6))
        where = ", ".join(top for top, _ in tops.most_common(8))
        return f"it holds {kinds}" + (f", in {where}{', …' if len(tops) > 8 else ''}" if tops else "")


def list_data(root: Path) -> Listing:
    """What lies below `root`: a folder, an archive, or one annotation file, whose folder it then is. A folder in which
    there is nothing but one other folder stands for that.

    Raises FileNotFoundError where there is no such place, ValueError where it is not one of a data set.
    """
    only = None
    if not os.path.isdir(root) and in_archive(root) is None:
        if not os.path.isfile(root):
            raise FileNotFoundError(
                f"data.root={root} does not exist; give the folder, or the tar or zip file, that holds the data"
            )
        if root.suffix.lower() not in (".json", ".xml", ".csv", ".yaml", ".yml", ".txt"):
            raise ValueError(
                f"data.root={root} is a file; wanted a folder, an annotation file (.json, .xml, .csv, .yaml) or one of "
                f"{', '.join(sorted(ARCHIVES))}"
            )
        root, only = root.parent, root.name
    names = open_images(root).names() if in_archive(root) is not None else files_below(root, MAX_FILES)
    names = [name for name in names if not is_hidden(name)]
    while only is None and names and "/" in names[0]:
        top = names[0].split("/")[0]
        if top.lower() in SPLIT_WORDS or not all(name.startswith(f"{top}/") for name in names):
            break
        deeper = [name[len(top) + 1 :] for name in names]
        if all("/" not in name for name in deeper) and not has_other_files(deeper):
            break  # pictures of one class
        root, names = root / top, deeper
    return Listing(root, names, only)


def has_other_files(names: Iterable[str]) -> bool:
    """Whether any file is no picture by its ending."""
    return any(os.path.splitext(name)[1].lower() not in SUFFIXES for name in names)


def split_of(path: str) -> SplitName | None:
    """The split that a path is of by its name, or by the folder nearest to it that says so."""
    for part in reversed(PurePosixPath(path).parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            for ending in ("", *SPLIT_ENDINGS):
                if word.endswith(ending) and word.removesuffix(ending) in SPLIT_WORDS:
                    return SPLIT_WORDS[word.removesuffix(ending)]
    return None


def folder_of(path: str) -> str:
    """The folder of a file; "." at the top."""
    return str(PurePosixPath(path).parent)


def common_folder(folders: Iterable[str]) -> str:
    """The deepest folder that all of these are in."""
    return posixpath.commonpath([*folders] or ["."]) or "."


@dataclass
class Pairs:
    """Files of labels and the pictures of the same names, by split."""

    folders: dict[SplitName | None, tuple[str, str]]
    """Folders of the pictures and of the labels; None for those of no split."""
    counts: dict[SplitName | None, int]
    unpaired: list[str]
    """Labels without a picture."""


def pair_by_name(labels: Sequence[str], images: Sequence[str]) -> Pairs:
    """Pictures and labels whose names are the same but for the ending and the case of letters. Of several pictures the
    one in the label's own folder counts, then one of the same split, then the nearest."""
    of_stem: dict[str, list[str]] = defaultdict(list)
    for image in images:
        of_stem[PurePosixPath(folded(image)).name].append(image)
    pairs: dict[SplitName | None, list[tuple[str, str]]] = defaultdict(list)
    unpaired = []
    for label in labels:
        same = of_stem.get(PurePosixPath(folded(label)).name, [])
        if not same:
            unpaired.append(label)
            continue
        own, split = folder_of(label), split_of(folder_of(label))
        image = max(
            same,
            key=lambda i: (
                folder_of(i) == own,
                split_of(folder_of(i)) == split,
                len(PurePosixPath(posixpath.commonpath([i, label])).parts),
            ),
        )
        split = split if split is not None else split_of(folder_of(image))
        pairs[split].append((folder_of(image), own))
    return Pairs(
        {
            split: (common_folder(i for i, _ in of), common_folder(label for _, label in of))
            for split, of in pairs.items()
        },
        {split: len(of) for split, of in pairs.items()},
        unpaired,
    )
