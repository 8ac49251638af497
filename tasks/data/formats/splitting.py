"""Parts a data set that comes in one piece into train, val and test: seeded, by class, groups kept together.

Legend:
    I  images        G  groups of images that belong together        K  classes        S  splits
"""

import csv
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from tasks.data.formats.raw import RawSplit
from tasks.data.loading.storage import ImageStorage, read_text
from tasks.data.quality.split_checks import near_groups
from tasks.data.splits import SPLITS

logger = logging.getLogger(__name__)
MAX_MOVES = 200
"""Of groups from one split to another, after all are assigned."""
MAX_GROUP_SHARE = 0.9
"""Of all images in one group of near copies; more are the frames of one film, which could not be split."""


@dataclass(frozen=True)
class Splitting:
    """How to part; the same files and seed give the same parts, whatever their order."""

    shares: tuple[float, ...]
    """Of train, val and, if there are three, test; they sum to 1."""
    group_pattern: str | None = None
    """A regular expression; images from whose path it takes the same text stay together."""
    seed: int = 0
    group_of: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The group of each image by its path, its name, or its name without ending; of others the pattern tells."""
    groups_digest: str = ""
    """Of the file that says so."""
    near_copies: bool = False
    """Whether pictures that are nearly the same stay together."""
    _near: dict[tuple[str, ...], np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def has_split(self, name: str) -> bool:
        """Whether any image goes into that split."""
        return SPLITS.index(name) < len(self.shares)

    def indices(
        self, name: str, files: Sequence[str], counts: np.ndarray, storage: ImageStorage | None = None
    ) -> np.ndarray:
        """Images of the split, ascending. `counts` (I, K): how many objects of each class an image shows; `storage`
        has the files, which only near copies are looked for in.

        Raises ValueError where there is no such split, or nothing is left for it.
        """
        if not self.has_split(name):
            raise ValueError(
                f"data.split={'/'.join(f'{s:g}' for s in self.shares)} leaves nothing for the {name} split; give it a "
                "third share"
            )
        keys = group_keys(files, self.group_pattern, self.group_of)
        if self.near_copies and storage is not None:
            keys = self._joined(files, keys, storage)
        names, group = np.unique(np.array(keys), return_inverse=True)
        by_group = np.zeros((len(names), counts.shape[1] + 1))
        np.add.at(by_group, group, np.column_stack([counts > 0, np.ones(len(counts))]))
        assigned = assign(by_group, np.array(self.shares), self.seed)
        found = np.flatnonzero(assigned[group] == SPLITS.index(name))
        if not found.size:
            raise ValueError(
                f"data.split={'/'.join(f'{s:g}' for s in self.shares)} leaves no image for {name} of {len(files)} in "
                f"{len(names)} groups; give it a larger share, or smaller groups with data.group_pattern="
            )
        return found

    def take(self, whole: RawSplit, name: str) -> RawSplit:
        """The split of that name out of `whole`. Annotations that point to no image count to training."""
        known = (whole.images >= 0) & (whole.labels >= 0)
        counts = np.zeros((len(whole), len(whole.class_names)), np.int64)
        np.add.at(counts, (whole.images[known], whole.labels[known]), 1)
        indices = self.indices(name, whole.file_names, counts, whole.storage)
        part = whole.select(indices, keep_lost=name == "train")
        part.name, part.source = name, f"{whole.source} ({name})"
        return part

    def _joined(self, files: Sequence[str], keys: list[str], storage: ImageStorage) -> list[str]:
        """`keys` of which those that share a near copy are the same."""
        if (of := tuple(files)) not in self._near:
            near = near_groups(storage, files)
            if np.bincount(near).max(initial=0) > max(MAX_GROUP_SHARE * len(files), 1):
                logger.warning(
                    "%d pictures are so much alike, as frames of one film are, that near copies are not kept together; "
                    "say which belong together with data.group_pattern= or a groups.csv",
                    len(files),
                )
                near = np.arange(len(files))
            self._near[of] = near
        return joined(keys, self._near[of])


def parse_splitting(
    split: str | Sequence[float] | None,
    group_pattern: str | None,
    seed: int,
    groups: Path | None = None,
    near_copies: bool = False,
) -> Splitting | None:
    """The partition that `data.split`, as "0.8/0.1/0.1" or numbers, asks for; None for None.

    Raises ValueError for what is none, FileNotFoundError where there is no file of `groups`.
    """
    if split is None:
        for option, value in (("group_pattern", group_pattern), ("groups", groups)):
            if value is not None:
                raise ValueError(
                    f"data.{option}= keeps images together in data.split=; give that too, or neither"
                )
        return None
    try:
        shares = [float(share) for share in (split.split("/") if isinstance(split, str) else split)]
    except (TypeError, ValueError):
        shares = []
    if len(shares) not in (2, 3) or not all(0 < share < np.inf for share in shares):
        raise ValueError(
            f"data.split={split} is not understood; wanted the shares of train, val and test, such as 0.8/0.1/0.1, or "
            "of train and val alone"
        )
    if group_pattern is not None:
        try:
            re.compile(group_pattern)
        except re.error as error:
            raise ValueError(
                f"data.group_pattern={group_pattern} is no regular expression ({error})"
            ) from None
    total = sum(shares)
    text = "" if groups is None else read_text(groups)
    return Splitting(
        tuple(share / total for share in shares),
        group_pattern,
        seed,
        {} if groups is None else read_groups(text, groups),
        hashlib.sha256(text.encode()).hexdigest()[:16] if text else "",
        near_copies,
    )


def read_groups(text: str, path: Path) -> dict[str, str]:
    """Image to group out of the two columns of a CSV file. Raises ValueError where a line has fewer."""
    found: dict[str, str] = {}
    try:
        for row in csv.reader(text.splitlines()):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) < 2:
                raise ValueError(
                    f"'{path}': the line '{row[0]:.40}' has no second column; wanted image,group"
                )
            found[row[0].strip().replace("\\", "/")] = row[1].strip()
    except csv.Error as error:
        raise ValueError(f"'{path}' is no CSV that can be read ({error}); wanted image,group") from None
    return found


def group_keys(
    files: Sequence[str], pattern: str | None, group_of: Mapping[str, str] | None = None
) -> list[str]:
    """What images that belong together have in common: the group that `group_of` says, else the first group of the
    pattern, or all that it matches; a file of neither is a group of its own.

    Raises ValueError where `group_of` or the pattern says it of none."""
    keys = _pattern_keys(files, pattern)
    if not group_of:
        return keys
    known = [
        next(
            (
                group_of[name]
                for name in (f, PurePosixPath(f).name, PurePosixPath(f).stem)
                if name in group_of
            ),
            None,
        )
        for f in files
    ]
    if not any(known):
        raise ValueError(
            f"the file of groups names none of the {len(files)} images ('{files[0]}', …); wanted image,group on each "
            "line"
        )
    return [key if group is None else f"group {group}" for key, group in zip(keys, known, strict=True)]


def joined(keys: Sequence[str], groups: np.ndarray) -> list[str]:
    """The keys, of which all that occur in one of `groups` (N,), directly or by others between them, are the first."""
    parent: dict[str, str] = {}

    def first(key: str) -> str:
        while (above := parent.setdefault(key, key)) != key:
            key = above
        return key

    of_group: dict[int, str] = {}
    for key, group in zip(keys, groups.tolist(), strict=True):
        a, b = sorted((first(key), first(of_group.setdefault(group, key))))
        parent[b] = a
    return [first(key) for key in keys]


def _pattern_keys(files: Sequence[str], pattern: str | None) -> list[str]:
    if pattern is None:
        return list(files)
    found = [re.search(pattern, file) for file in files]
    if not any(found):
        raise ValueError(
            f"data.group_pattern={pattern} matches none of the {len(files)} files ('{files[0]}', …); correct it"
        )
    return [
        f"file {file}" if match is None else f"group {match.group(1 if match.re.groups else 0)}"
        for file, match in zip(files, found, strict=True)
    ]


def assign(counts: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """(G,) split of each group, so that every column of `counts` (G, C) is shared out by `shares` (S,).

    The last column counts the images. The rarest column is shared out first, each group to the split that lacks
    most of it (iterative stratification, Sechidis et al. 2011, section 3.2).
    """
    num_groups = len(counts)
    order = np.random.default_rng(seed).permutation(num_groups)
    # Large groups first: what comes last can still even things out.
    order = order[np.argsort(-counts[order, -1], kind="stable")]
    wanted = shares[:, None] * counts.sum(axis=0)
    assigned = np.full(num_groups, -1)
    left = counts.sum(axis=0)
    while (assigned < 0).any():
        column = int(np.where(left > 0, left, np.inf)[:-1].argmin()) if (left[:-1] > 0).any() else -1
        for group in order[(assigned[order] < 0) & (counts[order, column] > 0)]:
            need = wanted[:, column]
            best = np.flatnonzero(need >= need.max() - 1e-9)
            split = best[wanted[best, -1].argmax()]
            assigned[group] = split
            wanted[split] -= counts[group]
            left -= counts[group]
    even_out(assigned, wanted, counts)
    return assigned


def even_out(assigned: np.ndarray, wanted: np.ndarray, counts: np.ndarray) -> None:
    """Moves groups, in place, until no split has an image too many that another lacks, those that spoil the shares of
    the classes least. `wanted` (S, C) is what each split still lacks of each column of `counts` (G, C)."""
    for _ in range(MAX_MOVES):
        full, short = int(wanted[:, -1].argmin()), int(wanted[:, -1].argmax())
        excess = min(-wanted[full, -1], wanted[short, -1])
        groups = np.flatnonzero((assigned == full) & (counts[:, -1] < 2 * excess - 1e-9))
        if excess < 0.5 or not groups.size:
            return
        after = np.abs(wanted[full] + counts[groups]) + np.abs(wanted[short] - counts[groups])
        group = groups[after.sum(axis=1).argmin()]
        assigned[group] = short
        wanted[full] += counts[group]
        wanted[short] -= counts[group]
