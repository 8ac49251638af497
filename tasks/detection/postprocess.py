"""From scored boxes to detections: suppression within each class, the best of each image.

Legend:
    B  images     P  candidates of an image, padding included     D  most detections of an image     K  classes
    M  candidates of all images together
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.contracts import Detections

from .boxes import at_least
from .selection import Candidates, take_rows
from .suppression import suppress_images

MIN_SIZE = 1e-2  # pixels; detections thinner than this are dropped, as torchvision does


def best_of_each_image(
    boxes: Tensor, scores: Tensor, labels: Tensor, max_detections: int, masks: Tensor | None = None
) -> Detections:
    """The `max_detections` rows of each image with the highest scores above 0, as padded rows.

    Rows are `boxes` (B, P, 4), `scores` (B, P), `labels` (B, P), and `masks` (B, P, S, S) where there are any.
    """
    num_rows = scores.shape[1]
    if num_rows < max_detections:
        missing = max_detections - num_rows
        scores, labels = F.pad(scores, (0, missing)), F.pad(labels, (0, missing))
        boxes = F.pad(boxes, (0, 0, 0, missing))
        masks = None if masks is None else F.pad(masks, (0, 0, 0, 0, 0, missing))
    score, best = scores.sort(dim=1, descending=True, stable=True)
    score, best = score[:, :max_detections], best[:, :max_detections]
    found = score > 0
    if masks is not None:
        chosen = take_rows(masks.flatten(2), best).unflatten(2, masks.shape[2:])
        masks = chosen.where(found[..., None, None], 0)
    return Detections(
        boxes=take_rows(boxes, best).where(found[..., None], 0),
        scores=score.where(found, 0),
        labels=labels.gather(1, best).where(found, -1),
        masks=masks,
    )


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
    found: Candidates, boxes: Tensor, num_classes: int, selection: DetectionSettings
) -> Detections:
    """Detections from candidates with clipped `boxes` (B, P, 4); D is `max_detections`.

    What scores no more than the threshold is left out. Suppression works within each class of each image, or within
    each image. Boxes under 0.01 pixels wide or high are dropped.
    """
    usable = at_least(boxes, MIN_SIZE) & (found.scores > selection.score_threshold)
    boxes = boxes.where(usable[..., None], 0)
    scores = found.scores.where(usable, 0)
    num_groups, groups = num_classes, found.labels
    if selection.class_agnostic_nms:
        num_groups, groups = 1, torch.zeros_like(found.labels)
    if selection.soft_nms_sigma is None:
        keep = suppress_images(boxes, scores, groups, num_groups, selection.nms_threshold)
        scores = scores.where(usable & keep, 0)
    else:
        images = torch.arange(len(boxes), device=boxes.device)[:, None]
        rows = usable.flatten().nonzero()[:, 0]
        softened = soft_nms(
            boxes.flatten(0, 1)[rows],
            scores.flatten()[rows],
            (images * num_groups + groups).flatten()[rows],
            len(boxes) * num_groups,
            selection.soft_nms_sigma,
            selection.max_detections,
        )
        softened = softened.where(softened > selection.score_threshold, 0)
        scores = torch.zeros_like(scores).flatten().index_copy_(0, rows, softened).view_as(scores)
    return best_of_each_image(boxes, scores, found.labels, selection.max_detections)


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
