"""What is wrong between splits: pictures that are in two of them, categories that are in one or in none.

Legend, beside that of tasks/data/quality/image_checks.py:
    pair  (split a, image of a, split b, image of b), images by index
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, pairwise

import numpy as np

from tasks.data.loading.storage import ImageStorage
from tasks.data.quality.image_checks import ImageFile, digest, fingerprints

Pair = tuple[str, int, str, int]

MAX_DISTANCE = 12
"""Bits of 128 in which the hashes of near copies may differ; JPEG and resizing change one or two."""
MIN_CORRELATION = 0.98
"""Of the fingerprints of near copies: hashes alone take all pictures of one cell on black for the same."""
CHUNK = 256
MAX_COMPARED = 30_000
"""Pictures that are compared each with each, in seconds; of more, only those of one hash are."""


def same_files(
    name: str,
    lengths: Mapping[str, Sequence[int]],
    stores: Mapping[str, ImageStorage],
    names: Mapping[str, Sequence[str]],
) -> list[tuple[int, str, int]]:
    """Files of the split `name` that are, byte by byte, in another: (index, other split, index there).

    `lengths` are in bytes, 0 where there is no file; only files of equal length are read. `names` are the files' in
    the `stores` of the splits.
    """
    own: dict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(lengths[name]):
        if length > 0:
            own[length].append(i)

    @cache
    def known(split: str, index: int) -> bytes:
        return digest(stores[split], names[split][index])

    return sorted(
        (i, other, j)
        for other, of_other in lengths.items()
        if other != name
        for j, length in enumerate(of_other)
        for i in own.get(length, ())
        if known(name, i) == known(other, j) != b""
    )


def near_pictures(files: Mapping[str, Sequence[ImageFile]]) -> Iterator[Pair]:
    """Pairs of pictures in two splits that differ by no more than another size or compression makes them."""
    pictures = {}
    for name, of_split in files.items():
        indices = [i for i, file in enumerate(of_split) if file.fingerprint is not None]
        prints = np.array([of_split[i].fingerprint for i in indices], np.float32).reshape(len(indices), -1)
        pictures[name] = np.array(indices, np.int64), hashes(prints), standardised(prints)
    for a, b in combinations(pictures, 2):
        (rows_a, bits_a, values_a), (rows_b, bits_b, values_b) = pictures[a], pictures[b]
        for i, j in near_pairs(bits_a, values_a, bits_b, values_b):
            yield a, int(rows_a[i]), b, int(rows_b[j])


def near_pairs(
    bits_a: np.ndarray, values_a: np.ndarray, bits_b: np.ndarray, values_b: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Rows of two sets of `hashes` (N, 2) and `standardised` fingerprints (N, 1024) that are near copies."""
    for start in range(0, len(bits_a), CHUNK):
        part = slice(start, start + CHUNK)
        distance = np.bitwise_count(bits_a[part, None] ^ bits_b[None]).sum(axis=2, dtype=np.int64)
        for i, j in np.argwhere(distance <= MAX_DISTANCE).tolist():
            if values_a[start + i] @ values_b[j] >= MIN_CORRELATION:
                yield start + i, j


def near_groups(store: ImageStorage, names: Sequence[str]) -> np.ndarray:
    """(len(names),) int64: equal numbers for pictures that are near copies, also by others between them."""
    found = fingerprints(store, names)
    rows = [i for i, fingerprint in enumerate(found) if fingerprint is not None]
    groups = np.arange(len(names))
    if not rows:
        return groups
    prints = np.array([found[i] for i in rows], np.float32).reshape(len(rows), -1)
    bits, values = hashes(prints), standardised(prints)
    parent = list(range(len(rows)))

    def first(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    if len(rows) <= MAX_COMPARED:
        pairs = near_pairs(bits, values, bits, values)
    else:
        order = np.lexsort(bits.T)
        pairs = ((int(a), int(b)) for a, b in pairwise(order) if (bits[a] == bits[b]).all())
    for a, b in pairs:
        if (low := first(a)) != (high := first(b)):
            parent[max(low, high)] = min(low, high)
    groups[rows] = [rows[first(row)] for row in range(len(rows))]
    return groups


def hashes(prints: np.ndarray) -> np.ndarray:
    """uint64 (N, 2) of fingerprints (N, 1024): whether it grows lighter from each of 8 x 8 places to the next, to
    the right and down (a difference hash)."""
    side = int(prints.shape[1] ** 0.5)
    square = prints.reshape(-1, side, side)
    means = square.reshape(-1, 8, side // 8, 8, side // 8).mean(axis=(2, 4))
    right = means > np.roll(means, -1, axis=2)
    down = means > np.roll(means, -1, axis=1)
    bits = np.concatenate([right.reshape(-1, 64), down.reshape(-1, 64)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint64)


def standardised(prints: np.ndarray) -> np.ndarray:
    """Fingerprints (N, 1024) whose product is their correlation; zeros for a picture of one colour."""
    centred = prints - prints.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length < 1, np.inf, length)
