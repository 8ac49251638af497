"""The assignments of ATSS and TOOD written as loops over plain numbers, and a small grid of anchors."""

import torch
from torch import Tensor

from tasks.detection.anchors import make_anchors

LEVELS = ((8, 10), (4, 5), (2, 3))
STRIDES = (8, 16, 32)


def grid() -> tuple[Tensor, tuple[int, ...]]:
    sizes = tuple(8 * stride for stride in STRIDES)
    anchors = make_anchors((64, 80), LEVELS, sizes, (1.0,), torch.device("cpu"), 0.5)
    return anchors, tuple(height * width for height, width in LEVELS)


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def adaptive_matches(anchors: Tensor, level_sizes: tuple[int, ...], objects: list[list[float]]) -> list[int]:
    """The matches of one image."""
    boxes = anchors.tolist()
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes]
    taken: dict[int, tuple[float, int]] = {}
    for row, box in enumerate(objects):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates, start = [], 0
        for count in level_sizes:
            level = sorted(
                range(start, start + count),
                key=lambda i: (centres[i][0] - x) ** 2 + (centres[i][1] - y) ** 2,
            )
            candidates += level[:9]
            start += count
        overlaps = [overlap(boxes[i], box) for i in candidates]
        mean = sum(overlaps) / len(overlaps)
        deviation = 0.0
        if len(overlaps) > 1:
            deviation = (sum((u - mean) ** 2 for u in overlaps) / (len(overlaps) - 1)) ** 0.5
        stands = [
            i
            for i, u in zip(candidates, overlaps, strict=True)
            if u >= mean + deviation and box[0] < centres[i][0] < box[2] and box[1] < centres[i][1] < box[3]
        ]
        if not stands:
            stands = [min(candidates, key=lambda i: (centres[i][0] - x) ** 2 + (centres[i][1] - y) ** 2)]
        for i in stands:
            u = overlap(boxes[i], box)
            if i not in taken or u > taken[i][0]:
                taken[i] = u, row
    return [taken[i][1] if i in taken else -1 for i in range(len(boxes))]


def aligned_matches(anchors: list, boxes: list, scores: list, objects: dict[int, tuple[list[float], int]]):
    """Matches and targets of one image; `objects` are (box, label) by row."""
    taken: dict[int, tuple[float, int]] = {}
    aligned: dict[tuple[int, int], float] = {}
    for row, (box, label) in objects.items():
        for i, anchor in enumerate(anchors):
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            if box[0] < x < box[2] and box[1] < y < box[3]:
                aligned[row, i] = scores[i][label] * overlap(boxes[i], box) ** 6
        best = sorted((i for r, i in aligned if r == row), key=lambda i: -aligned[row, i])[:13]
        for i in best:
            u = overlap(boxes[i], box)
            if aligned[row, i] > 0 and (i not in taken or u > taken[i][0]):
                taken[i] = u, row
    matches, targets = [-1] * len(anchors), [0.0] * len(anchors)
    for row in objects:
        own = [i for i in taken if taken[i][1] == row]
        for i in own:
            matches[i] = row
            most, highest = max(aligned[row, j] for j in own), max(taken[j][0] for j in own)
            targets[i] = aligned[row, i] / most * highest
    return matches, targets
