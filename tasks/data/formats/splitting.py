"""Parts a data set that comes in one piece into train, val and test: seeded, by class, groups kept together.

Legend:
    I  images        G  groups of images that belong together        K  classes        S  splits
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.data.formats.raw import RawSplit

NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Splitting:
    """How to part; the same files and seed give the same parts, whatever their order."""

    shares: tuple[float, ...]
    """Of train, val and, if there are three, test; they sum to 1."""
    group_pattern: str | None = None
    """A regular expression; images from whose path it takes the same text stay together."""
    seed: int = 0

    def has_split(self, name: str) -> bool:
        """Whether any image goes into that split."""
        return NAMES.index(name) < len(self.shares)

    def indices(self, name: str, files: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Images of the split, ascending. `counts` (I, K): how many objects of each class an image shows.

        Raises ValueError where there is no such split, or nothing is left for it.
        """
        if not self.has_split(name):
            raise ValueError(
                f"data.split={'/'.join(f'{s:g}' for s in self.shares)} leaves nothing for the {name} split; give it a "
                "third share"
            )
        keys = group_keys(files, self.group_pattern)
        names, group = np.unique(np.array(keys), return_inverse=True)
        by_group = np.zeros((len(names), counts.shape[1] + 1))
        np.add.at(by_group, group, np.column_stack([counts > 0, np.ones(len(counts))]))
        assigned = assign(by_group, np.array(self.shares), self.seed)
        found = np.flatnonzero(assigned[group] == NAMES.index(name))
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
        part = whole.select(self.indices(name, whole.file_names, counts), keep_lost=name == "train")
        part.name, part.source = name, f"{whole.source} ({name})"
        return part


def parse_splitting(
    split: str | Sequence[float] | None, group_pattern: str | None, seed: int
) -> Splitting | None:
    """The partition that `data.split`, as "0.8/0.1/0.1" or numbers, asks for; None for None.

    Raises ValueError for what is none.
    """
    if split is None:
        if group_pattern is not None:
            raise ValueError(
                "data.group_pattern= keeps images together in data.split=; give that too, or neither"
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
    return Splitting(tuple(share / total for share in shares), group_pattern, seed)


def group_keys(files: Sequence[str], pattern: str | None) -> list[str]:
    """What images that belong together have in common: the first group of the pattern, or all that it matches; a file
    that it does not match is a group of its own. Raises ValueError where it matches none."""
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
    return assigned
