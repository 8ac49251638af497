"""From scored boxes to detections: non-maximum suppression of all groups at once, the best of each image.

Legend:
    B  images     M  candidates of all images together     D  most detections of an image     K  classes
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_area, nms

from tasks.contracts import Detections

from .boxes import at_least

_MIN_SIZE = 1e-2  # pixels; detections thinner than this are dropped, as torchvision does
# On a GPU one call of nms holds a bit for every pair of boxes: 1.25 GB at this number.
_MOST_BOXES_A_CALL = 100_000
# Devices on which one call for each group is best: nms compares all pairs one by one there.
_CALLS_ARE_CHEAP = ("cpu",)


def suppress(boxes: Tensor, scores: Tensor, group_sizes: Sequence[int], iou_threshold: float) -> Tensor:
    """Which boxes (M,) no better box of the same group overlaps by more than `iou_threshold`.

    `boxes` (M, 4), not negative, and `scores` (M,) lie group by group, `group_sizes` boxes each. Boxes
    without area suppress nothing and are not suppressed.
    """
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    start = 0
    if boxes.device.type in _CALLS_ARE_CHEAP:
        for size in group_sizes:
            part = slice(start, start + size)
            keep[part][nms(boxes[part], scores[part], iou_threshold)] = True
            start += size
        return keep
    # Elsewhere a call costs more than its comparisons: shift each group to a place of its own instead, in a
    # square rather than a row, because far from 0 float32 has too few digits left for overlaps.
    for sizes in _calls(group_sizes):
        total = sum(sizes)
        part = slice(start, start + total)
        counts = torch.tensor(sizes).pin_memory().to(boxes.device, non_blocking=True)
        group = torch.arange(len(sizes), device=boxes.device).repeat_interleave(counts, output_size=total)
        side = math.isqrt(len(sizes)) + 1
        shift = torch.stack((group % side, group // side), dim=1).repeat(1, 2) * (boxes[part].amax() + 1)
        keep[part][nms(boxes[part] + shift, scores[part], iou_threshold)] = True
        start += total
    return keep


def _calls(group_sizes: Sequence[int]) -> list[list[int]]:
    """`group_sizes` cut into runs of at most `_MOST_BOXES_A_CALL` boxes, empty runs left out."""
    runs: list[list[int]] = [[]]
    for size in group_sizes:
        if runs[-1] and sum(runs[-1]) + size > _MOST_BOXES_A_CALL:
            runs.append([])
        runs[-1].append(size)
    return [run for run in runs if sum(run)]


def best_of_each_image(
    boxes: Tensor, scores: Tensor, labels: Tensor, images: Tensor, num_images: int, max_detections: int
) -> Detections:
    """The `max_detections` candidates of each image with the highest scores above 0, as padded rows.

    Candidates are `boxes` (M, 4), `scores` (M,), `labels` (M,), and `images` (M,) in 0 … B - 1.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[images[order].argsort(stable=True)]
    boxes, scores, labels, images = boxes[order], scores[order], labels[order], images[order]
    first = torch.searchsorted(images, torch.arange(num_images, device=images.device))
    rank = torch.arange(len(images), device=images.device) - first[images]
    # What has no place goes to one row past the end, which is cut off.
    end = num_images * max_detections
    row = torch.where((rank < max_detections) & (scores > 0), images * max_detections + rank, end)
    shape = (num_images, max_detections)
    return Detections(
        boxes=boxes.new_zeros(end + 1, 4).index_copy_(0, row, boxes)[:end].view(*shape, 4),
        scores=scores.new_zeros(end + 1).index_copy_(0, row, scores)[:end].view(shape),
        labels=labels.new_full((end + 1,), -1).index_copy_(0, row, labels)[:end].view(shape),
    )


class Candidates(NamedTuple):
    """Boxes worth looking at, by image, then class."""

    images: Tensor
    """int64 (M,) in 0 … B - 1."""
    labels: Tensor
    """int64 (M,) in 0 … K - 1."""
    indices: Tensor
    """int64 (M,): which of its image's boxes."""
    group_sizes: list[int]
    """Candidates of each class of each image, B * K numbers."""


def candidates(scores: Tensor, score_threshold: float) -> Candidates:
    """All (image, box, class) whose score in `scores` (B, P, K) is above `score_threshold`."""
    chosen = (scores > score_threshold).transpose(1, 2)
    images, labels, indices = chosen.nonzero().unbind(1)
    return Candidates(images, labels, indices, chosen.sum(dim=2).flatten().tolist())


def best_of_each_level(
    found: Candidates, scores: Tensor, level_sizes: Sequence[int], most: int
) -> Candidates:
    """The `most` candidates of each level of each image with the highest of `scores` (B, A, K).

    Boxes lie level by level, `level_sizes` of them in each.
    """
    num_images, _, num_classes = scores.shape
    images, labels, indices, _ = found
    ends = torch.tensor(level_sizes).cumsum(0).to(indices.device)
    group = images * len(level_sizes) + torch.searchsorted(ends, indices, right=True)
    order = scores[images, indices, labels].argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    first = torch.searchsorted(ordered, torch.arange(num_images * len(level_sizes), device=ordered.device))
    rank = torch.arange(len(order), device=order.device) - first[ordered]
    keep = torch.empty_like(rank, dtype=torch.bool).index_copy_(0, order, rank < most)
    images, labels, indices = images[keep], labels[keep], indices[keep]
    counts = torch.bincount(images * num_classes + labels, minlength=num_images * num_classes)
    return Candidates(images, labels, indices, counts.tolist())


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """What makes a box a detection: settings of every detector."""

    score_threshold: float = 0.05
    """Detections need a higher score."""
    nms_threshold: float = 0.5
    """Boxes that overlap a better one of their class more than this are dropped."""
    max_detections: int = 100
    """Most detections of an image."""
    class_agnostic_nms: bool = False
    """Boxes of other classes suppress each other as well, so that no two detections share a place."""
    soft_nms_sigma: float | None = None
    """Instead of dropping boxes that overlap a better one, lower their scores by this Gaussian (0.5 in Soft-NMS);
    then `nms_threshold` is not used. See `soft_nms`."""

    def __post_init__(self) -> None:
        if not (0 <= self.score_threshold <= 1 and 0 <= self.nms_threshold <= 1 and self.max_detections >= 1):
            raise ValueError(
                f"model.score_threshold={self.score_threshold} and model.nms_threshold={self.nms_threshold} must "
                f"be between 0 and 1, model.max_detections={self.max_detections} at least 1"
            )
        if self.soft_nms_sigma is not None and self.soft_nms_sigma <= 0:
            raise ValueError(
                f"model.soft_nms_sigma={self.soft_nms_sigma} must be above 0 (0.5 in the paper), or null for plain "
                "suppression"
            )


def postprocess(
    found: Candidates, boxes: Tensor, scores: Tensor, num_images: int, selection: DetectionSettings
) -> Detections:
    """Detections from candidates with clipped `boxes` (M, 4) and `scores` (M,); D is `max_detections`.

    Suppression works within each class of each image, or within each image. Boxes under 0.01 pixels wide or
    high are dropped.
    """
    usable = at_least(boxes, _MIN_SIZE)
    boxes = boxes.where(usable[:, None], 0)
    sizes = found.group_sizes
    if selection.class_agnostic_nms:  # candidates lie image by image
        classes = len(sizes) // num_images
        sizes = [sum(sizes[start : start + classes]) for start in range(0, len(sizes), classes)]
    if selection.soft_nms_sigma is None:
        keep = usable & suppress(boxes, scores, sizes, selection.nms_threshold)
        scores = scores.where(keep, 0)
    else:
        scores = soft_nms(
            boxes, scores.where(usable, 0), sizes, selection.soft_nms_sigma, selection.max_detections
        )
        scores = scores.where(scores > selection.score_threshold, 0)
    return best_of_each_image(boxes, scores, found.labels, found.images, num_images, selection.max_detections)


def soft_nms(boxes: Tensor, scores: Tensor, group_sizes: Sequence[int], sigma: float, most: int) -> Tensor:
    """Scores (M,) after soft suppression: each times exp(-overlap² / sigma) for every better box of its group.

    Soft-NMS (Bodla et al., 2017), equation 3. Better boxes are found one after another, by their lowered
    scores; what is not among the `most` best of its group becomes 0. All groups go side by side.
    """
    result = torch.zeros_like(scores)
    sizes = torch.tensor(group_sizes)
    longest = int(sizes.max()) if len(sizes) else 0
    if longest == 0:
        return result
    # (groups, longest) places, of which each group fills its first; the rest score below everything.
    place = torch.arange(longest).expand(len(sizes), -1)
    filled = (place < sizes[:, None]).to(boxes.device)
    source = ((sizes.cumsum(0) - sizes)[:, None] + place).clamp(max=len(boxes) - 1).to(boxes.device)
    left, areas = boxes[source], box_area(boxes)[source]
    waiting = scores[source].where(filled, -1)
    done = torch.zeros_like(waiting)
    for _ in range(min(longest, most)):
        score, best = waiting.max(dim=1, keepdim=True)
        done.scatter_(1, best, score.maximum(done.gather(1, best)))  # the best may have been the best before
        chosen = left.gather(1, best[..., None].expand(-1, -1, 4))
        sides = (torch.minimum(left, chosen)[..., 2:] - torch.maximum(left, chosen)[..., :2]).clamp(min=0)
        shared = sides.prod(dim=2)
        union = areas + areas.gather(1, best) - shared
        overlap = shared / union.clamp(min=torch.finfo(union.dtype).tiny)
        waiting = waiting * torch.exp(-(overlap**2) / sigma)
        waiting.scatter_(1, best, -1)
    result[source[filled]] = done[filled]
    return result
