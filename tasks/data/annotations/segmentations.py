"""Polygons and run-length masks of many objects in a few flat arrays.

Legend:
    M  objects        R  polygon rings of all objects        C  coordinates of all rings, x and y in turn
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Self

import numpy as np

Rings = list[list[float]]
"""An object's polygons as COCO writes them: one flat list x, y, x, y, … per ring, in pixels."""


def unwrap(segmentation: Any) -> Any:
    """What COCO's field `segmentation` holds, without the slips of tools that write it: a list of rings, none of them
    empty; run lengths; None for no mask at all. Nothing inside is checked."""
    if type(segmentation) is list and segmentation and type(segmentation[0]) is list and all(segmentation):
        return segmentation  # the usual case
    if isinstance(segmentation, dict):
        return segmentation or None
    if not isinstance(segmentation, list):
        return segmentation
    if segmentation and not any(isinstance(item, list | dict) for item in segmentation):
        return [segmentation]  # one ring that is not in a list
    if len(segmentation) == 1 and isinstance(segmentation[0], dict):
        return segmentation[0] or None
    return [ring for ring in segmentation if ring not in ([], {})] or None


def scaled(rings: Rings, width: float, height: float) -> Rings:
    """The rings with each x times `width` and each y times `height`."""
    if width == height == 1:
        return rings
    return [[v * (height if i % 2 else width) for i, v in enumerate(ring)] for ring in rings]


@dataclass
class Segmentations:
    """One segmentation per object: polygons, a compressed run-length mask, or nothing."""

    coordinates: np.ndarray
    """(C,) float64, exactly as written in the file."""
    ring_offsets: np.ndarray
    """(R+1,) int64 into `coordinates`."""
    object_rings: np.ndarray
    """(M+1,) int64 into the rings: object j owns rings `object_rings[j]` … `object_rings[j + 1]`."""
    counts: np.ndarray
    """uint8: COCO's compressed run lengths of all objects, joined."""
    count_offsets: np.ndarray
    """(M+1,) int64 into `counts`; an empty range where the object has no run-length mask."""

    @classmethod
    def from_objects(cls, objects: Iterable[Rings | bytes | None]) -> Self:
        """From one item per object: rings, compressed run lengths, or None."""
        rings: list[Sequence[float]] = []
        counts: list[bytes] = []
        object_rings, count_lengths = [0], [0]
        for item in objects:
            if isinstance(item, bytes):
                counts.append(item)
            elif item is not None:
                rings.extend(item)
            object_rings.append(len(rings))
            count_lengths.append(len(item) if isinstance(item, bytes) else 0)
        ring_lengths = np.fromiter((len(ring) for ring in rings), np.int64, len(rings))
        return cls(
            coordinates=np.fromiter(chain.from_iterable(rings), np.float64, ring_lengths.sum()),
            ring_offsets=np.concatenate([[0], np.cumsum(ring_lengths)]),
            object_rings=np.array(object_rings),
            counts=np.frombuffer(b"".join(counts), np.uint8),
            count_offsets=np.cumsum(count_lengths),
        )

    def __len__(self) -> int:
        return len(self.object_rings) - 1

    def __getitem__(self, index: int) -> Rings | bytes | None:
        """What `from_objects` was given for the object."""
        start, stop = self.count_offsets[index : index + 2]
        if stop > start:
            return self.counts[start:stop].tobytes()
        offsets = self.ring_offsets[self.object_rings[index] : self.object_rings[index + 1] + 1]
        rings = [self.coordinates[a:b].tolist() for a, b in pairwise(offsets)]
        return rings or None

    def select(self, indices: np.ndarray) -> Self:
        """The segmentations of these objects, in this order."""
        return self.from_objects(self[int(index)] for index in indices)
