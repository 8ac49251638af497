"""From scored boxes to detections: candidates, suppression within each class, the best of each image.

Legend:
    B  images     M  candidates of all images together     D  most detections of an image     K  classes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.contracts import Detections

from .boxes import at_least
from .suppression import suppress

_MIN_SIZE = 1e-2  # pixels; detections thinner than this are dropped, as torchvision does


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


def candidates(scores: Tensor, score_threshold: float) -> Candidates:
    """All (image, box, class) whose score in `scores` (B, P, K) is above `score_threshold`."""
    return Candidates(*(scores > score_threshold).transpose(1, 2).nonzero().unbind(1))


def best_of_each_level(
    scores: Tensor, score_threshold: float, level_sizes: Sequence[int], most: int
) -> Candidates:
    """The `most` (box, class) of each level of each image with the highest of `scores` (B, A, K) above the threshold.

    Boxes lie level by level, `level_sizes` of them in each. On a GPU there are always as many as `most` and the
    levels allow, so that nothing waits for their number; the last of a level may then lie below the threshold.
    """
    if (
        scores.device.type == "cpu"
    ):  # few pairs are above the threshold, and finding them is the cheapest pass
        return _take_best(candidates(scores, score_threshold), scores, level_sizes, most)
    num_images, _, num_classes = scores.shape
    chosen, start = [], 0
    for level in scores.split(list(level_sizes), dim=1):
        pairs = level.flatten(1)
        best = pairs.topk(min(most, pairs.shape[1]), dim=1).indices
        chosen.append(best + start * num_classes)
        start += level.shape[1]
    pair = torch.cat(chosen, dim=1)
    images = torch.arange(num_images, device=pair.device)[:, None].expand_as(pair)
    return Candidates(images.flatten(), (pair % num_classes).flatten(), (pair // num_classes).flatten())


def _take_best(found: Candidates, scores: Tensor, level_sizes: Sequence[int], most: int) -> Candidates:
    images, labels, indices = found
    num_levels = len(level_sizes)
    ends = torch.tensor(level_sizes, device=indices.device).cumsum(0)
    group = images * num_levels + torch.searchsorted(ends, indices, right=True)
    order = scores[images, indices, labels].argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    first = torch.searchsorted(ordered, torch.arange(len(scores) * num_levels, device=ordered.device))
    rank = torch.arange(len(order), device=order.device) - first[ordered]
    kept = torch.empty_like(rank, dtype=torch.bool).index_copy_(0, order, rank < most).nonzero()[:, 0]
    return Candidates(images[kept], labels[kept], indices[kept])


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
    found: Candidates,
    boxes: Tensor,
    scores: Tensor,
    num_images: int,
    num_classes: int,
    selection: DetectionSettings,
) -> Detections:
    """Detections from candidates with clipped `boxes` (M, 4) and `scores` (M,); D is `max_detections`.

    What scores no more than the threshold is left out. Suppression works within each class of each image, or within
    each image. Boxes under 0.01 pixels wide or high are dropped.
    """
    usable = at_least(boxes, _MIN_SIZE) & (scores > selection.score_threshold)
    boxes = boxes.where(usable[:, None], 0)
    num_groups, groups = num_images, found.images
    if not selection.class_agnostic_nms:
        num_groups, groups = num_images * num_classes, found.images * num_classes + found.labels
    if selection.soft_nms_sigma is None:
        keep = usable & suppress(boxes, scores, groups, num_groups, selection.nms_threshold)
        scores = scores.where(keep, 0)
    else:
        sigma, most = selection.soft_nms_sigma, selection.max_detections
        scores = soft_nms(boxes, scores.where(usable, 0), groups, num_groups, sigma, most)
        scores = scores.where(scores > selection.score_threshold, 0)
    return best_of_each_image(boxes, scores, found.labels, found.images, num_images, selection.max_detections)


def soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, sigma: float, most: int
) -> Tensor:
    """Scores (M,) after soft suppression: each times exp(-overlap² / sigma) for every better box of its group.

    `groups` (M,) int64 in 0 … `num_groups` - 1.

    Soft-NMS (Bodla et al., 2017), equation 3. Better boxes are found one after another, by their lowered
    scores; what is not among the `most` best of its group becomes 0. All groups go side by side.
    """
    result = torch.zeros_like(scores)
    if not len(boxes):
        return result
    sizes = torch.bincount(groups, minlength=num_groups).cpu()
    longest = int(sizes.max())
    # (groups, longest) places, of which each group fills its first; the rest score below everything.
    place = torch.arange(longest).expand(len(sizes), -1)
    filled = (place < sizes[:, None]).to(boxes.device)
    source = ((sizes.cumsum(0) - sizes)[:, None] + place).clamp(max=len(boxes) - 1).to(boxes.device)
    source = groups.argsort(stable=True)[source]
    left, areas = boxes[source], (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)[source]
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
