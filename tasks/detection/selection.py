"""Which of many scored boxes are worth decoding: rows of equal length for all images, padded where there are fewer.

Shapes depend on the sizes of maps and on settings alone, so that a GPU is not waited for and a graph can be exported.

Legend:
    B  images     A  boxes of an image, level by level     K  classes     P  candidates of an image, padding included
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_MOST_ROWS = 2**16  # candidates of an image with their padding, above which a GPU is better waited for once


class Candidates(NamedTuple):
    """(box, class) pairs worth looking at; padding anywhere among them."""

    scores: Tensor
    """(B, P); 0 for padding."""
    labels: Tensor
    """int64 (B, P) in 0 … K - 1."""
    indices: Tensor
    """int64 (B, P): which of its image's boxes."""

    def take(self, values: Tensor) -> Tensor:
        """(B, P, 4) of `values` (B, A, 4), or of (B, A, K, 4) which differ from class to class."""
        if values.dim() == 3:
            return take_rows(values, self.indices)
        return take_rows(values.flatten(1, 2), self.indices * values.shape[2] + self.labels)


def take_rows(values: Tensor, indices: Tensor) -> Tensor:
    """(B, P, C) of `values` (B, A, C), the rows at `indices` (B, P)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def best_of_each_level(values: Tensor, level_sizes: Sequence[int], most: int) -> list[tuple[Tensor, Tensor]]:
    """The `most` highest of each level of `values` (B, A), falling, and their columns in it: (B, n) each.

    A level of fewer columns gives all of them; while exporting, when the number is not known, it is filled up with
    -inf at its first column.
    """
    found, start = [], 0
    for level in values.split(list(level_sizes), dim=1):
        if torch.compiler.is_exporting():
            best, index = F.pad(level, (0, most), value=-torch.inf).topk(most, dim=1)
            index = index.where(best > -torch.inf, 0)
        else:
            best, index = level.topk(min(most, level.shape[1]), dim=1)
        found.append((best, index + start))
        start += level.shape[1]
    return found


def best_pairs(
    best: Tensor,
    scores_at: Callable[[Tensor], Tensor],
    level_sizes: Sequence[int],
    most: int,
    score_threshold: float,
) -> Candidates:
    """The `most` pairs of each level with the highest scores above the threshold.

    `best` (B, A) is each box's score of its best class, and `scores_at` gives those of all classes (B, n, K) at
    columns (B, n). The best pairs are of the boxes with the best classes, so no other scores are looked at: a
    twentieth of the time of sorting all of them.
    """
    levels = []
    for value, index in best_of_each_level(best, level_sizes, most):
        scores = scores_at(index)
        num_classes = scores.shape[2]
        scores = scores.where((value > score_threshold)[..., None], 0).flatten(1)
        score, pair = scores.topk(min(most, scores.shape[1]), dim=1)
        score = score.where(score > score_threshold, 0)
        levels.append((score, pair % num_classes, index.gather(1, pair // num_classes)))
    return Candidates(*(torch.cat(parts, dim=1) for parts in zip(*levels, strict=True)))


def candidates(scores: Tensor, score_threshold: float) -> Candidates:
    """All pairs of `scores` (B, R, K) above the threshold, by box or by class. Rows sum to 1 at most, which limits
    how many of them can be above it."""
    num_images, num_boxes, num_classes = scores.shape
    most = num_classes if score_threshold <= 0 else min(num_classes, int(1 / score_threshold))
    fixed = torch.compiler.is_compiling() or (scores.is_cuda and num_boxes * most <= _MOST_ROWS)
    if fixed:
        score, label = scores.topk(most, dim=2)
        score = score.where(score > score_threshold, 0)
        index = torch.arange(num_boxes, device=scores.device)[:, None].expand_as(score)
        return Candidates(score.flatten(1), label.flatten(1), index.flatten(1))
    images, labels, indices = (scores > score_threshold).transpose(1, 2).nonzero().unbind(1)
    counts = torch.bincount(images, minlength=num_images)
    longest = max(counts.tolist(), default=0)
    column = torch.arange(len(images), device=images.device) - (counts.cumsum(0) - counts)[images]
    place = images * longest + column

    def padded(values: Tensor) -> Tensor:
        return values.new_zeros(num_images * longest).index_copy(0, place, values).view(num_images, longest)

    return Candidates(padded(scores[images, indices, labels]), padded(labels), padded(indices))
