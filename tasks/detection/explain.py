"""Why an object was not found: the stage of a detector that lost it.

A detector makes boxes of anchors, scores boxes, suppresses those that overlap a better one, and keeps the best. `trace`
follows one image through all of it; `lost_at` asks of one object how far boxes on it came.

Legend:
    A  anchors     P  boxes that are scored (proposals, or the anchors themselves)     K  classes
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tasks.contracts import Batch, Model
from tasks.data.loading.collate import batch_images

from .boxes import clip, decode
from .dense_detector import DenseDetector
from .faster_rcnn import FasterRCNN
from .postprocess import MIN_SIZE, DetectionSettings
from .roi_head import RoIHead

GOOD = 0.5
"""IoU from which a box is on an object."""
ANCHOR_IOU = 0.3
"""Below, no anchor is near: a proposal network learns such anchors as background."""
STAGES = {
    "found": "found",
    "no anchor": "no anchor overlaps it",
    "no proposal": "no box was proposed there",
    "score": "its score is too low",
    "placement": "its box is badly placed",
    "suppressed": "a better box suppressed it",
    "cap": "too many other detections score higher",
}
"""In the order in which a detector goes through them."""


@dataclass(frozen=True)
class Trace:
    """What a detector made of one image, in pixels of its batch; float64 arrays."""

    anchors: np.ndarray
    """(A, 4) xyxy; of detectors of points, squares around them."""
    anchor_boxes: np.ndarray
    """(A, 4): what became of each anchor, whether it was kept or not."""
    proposals: np.ndarray
    """(P, 4): boxes that were scored."""
    scores: np.ndarray
    """(P, K) in 0 … 1."""
    boxes: np.ndarray
    """(P, K, 4): where each class puts the box."""
    settings: DetectionSettings

    @cached_property
    def suppression(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, labels and suppressors of all candidates by falling score; the place of the candidate that suppressed
        each, -1 for those that stay. Soft suppression drops nothing, and so does none here."""
        settings = self.settings
        sides = self.boxes[..., 2:] - self.boxes[..., :2]
        rows, labels = np.nonzero((self.scores > settings.score_threshold) & (sides >= MIN_SIZE).all(axis=-1))
        order = np.argsort(-self.scores[rows, labels], kind="stable")
        rows, labels = rows[order], labels[order]
        boxes, by = self.boxes[rows, labels], np.full(len(rows), -1)
        if settings.soft_nms_sigma is not None:
            return rows, labels, by
        group_of = np.zeros_like(labels) if settings.class_agnostic_nms else labels
        for group in np.unique(group_of):
            left = np.flatnonzero(group_of == group)
            while len(left):
                first, left = left[0], left[1:]
                is_gone = _iou(boxes[left], boxes[first]) > settings.nms_threshold
                by[left[is_gone]] = first
                left = left[~is_gone]
        return rows, labels, by


@dataclass(frozen=True)
class Explanation:
    """Of one object."""

    stage: str
    """A key of `STAGES`."""
    words: str
    """The same with numbers."""
    score: float
    """The best score of its class among boxes on it; 0 without any."""
    suppressor: np.ndarray | None = None
    """(4,) xyxy: the box that suppressed the best one on it."""


def lost_at(trace: Trace, box: np.ndarray, label: int) -> Explanation:
    """What became of an object of class `label` at `box` (4,) xyxy."""
    settings, scores = trace.settings, trace.scores[:, label]
    on_it = _iou(trace.boxes[:, label], box) >= GOOD
    near = _iou(trace.proposals, box) >= GOOD
    best = float(scores[on_it | near].max(initial=0.0))
    if not (on_it | near).any():
        anchor = float(_iou(trace.anchors, box).max(initial=0.0))
        if anchor < ANCHOR_IOU:
            return Explanation("no anchor", f"no anchor overlaps it: the best by {anchor:.2f}", 0.0)
        placed = float(_iou(trace.anchor_boxes, box).max(initial=0.0))
        why = (
            f"a box overlaps it by {placed:.2f}, but others were preferred" if placed >= GOOD
            else f"the best box of an anchor overlaps it by {placed:.2f}"
        )  # fmt: skip
        return Explanation("no proposal", f"no proposal is on it: {why}", 0.0)
    passes = scores > settings.score_threshold
    if not (passes & (on_it | near)).any():
        row = int(np.flatnonzero(on_it | near)[scores[on_it | near].argmax()])
        other = int(trace.scores[row].argmax())
        rival = float(trace.scores[row, other])
        named = f"; class {other} has {rival:.3f} there" if other != label and rival > best else ""
        return Explanation(
            "score", f"its score {best:.3f} is not above {settings.score_threshold:.3f}{named}", best
        )
    if not (passes & on_it).any():
        row = int(np.flatnonzero(passes & near)[scores[passes & near].argmax()])
        overlap = float(_iou(trace.boxes[row, label][None], box)[0])
        return Explanation(
            "placement", f"the box of score {scores[row]:.3f} overlaps it by {overlap:.2f} alone", best
        )
    rows, labels, suppressors = trace.suppression
    kept = suppressors < 0
    places = np.flatnonzero((labels == label) & np.isin(rows, np.flatnonzero(on_it)))
    if not kept[places].any():
        place = int(places[0])  # the best, as they fall in score
        by = int(suppressors[place])
        other = trace.boxes[rows[by], labels[by]]
        words = (
            f"its box of score {scores[rows[place]]:.3f} was suppressed by one of class {labels[by]} with score "
            f"{trace.scores[rows[by], labels[by]]:.3f}, which overlaps it by {_iou(other[None], box)[0]:.2f}"
        )
        return Explanation("suppressed", words, best, other)
    rank = int(np.searchsorted(np.flatnonzero(kept), places[kept[places]][0]))
    if rank >= settings.max_detections:
        words = f"{rank} detections score higher, and {settings.max_detections} are kept (max_detections)"
        return Explanation("cap", words, best)
    return Explanation("found", f"found with score {scores[rows[places[kept[places]][0]]]:.3f}", best)


@torch.inference_mode()
def trace(model: Model, batch: Batch) -> Trace:
    """Follows the one image of `batch` through `model`.

    Raises:
        ValueError: a detector whose stages are not known here.
    """
    if not can_trace(model):
        raise ValueError(
            f"the stages of this {model.header.model['name']} cannot be followed; those of retinanet, fcos, gfl and "
            "yolox can, and of faster_rcnn and mask_rcnn without a cascade"
        )
    features: Any = model.features(batch)
    sizes = batch.sizes
    if isinstance(model, DenseDetector):
        boxes = clip(model.decode(features.deltas, features.anchors[None]), sizes)[0]
        scores = model.scores(features)[0]
        every = boxes[:, None].expand(-1, scores.shape[1], -1)
        boxes = _array(boxes)
        return Trace(_array(features.anchors), boxes, boxes, _array(scores), _array(every), model.settings)
    assert isinstance(model, FasterRCNN) and isinstance(model.roi_head, RoIHead)
    said = features.anchors
    proposals, valid = model.propose(features, batch)
    logits, deltas = model.roi_head(features.table, proposals, valid)
    scores = logits.float().softmax(dim=-1)[..., : model.num_classes] * valid[..., None]
    boxes = decode(deltas, proposals[:, :, None].expand_as(deltas), model.roi_head.weights)
    decoded = clip(decode(said.deltas, said.anchors[None]), sizes)
    keep = valid[0]
    boxes = clip(boxes.flatten(1, 2), sizes).view_as(boxes)
    parts = (said.anchors, decoded[0], proposals[0, keep], scores[0, keep], boxes[0, keep])
    anchors, decoded, kept, scores, boxes = map(_array, parts)
    return Trace(anchors, decoded, kept, scores, boxes, model.roi_head.detection)


def explainer(model: Model) -> Callable[[np.ndarray, np.ndarray, list[str]], list[tuple[str, str]]] | None:
    """A function of an image uint8 (H, W, 3), boxes (M, 4) xyxy in its pixels and the names of their classes, which
    gives the stage of each and why in words; None for a detector whose stages are not known here."""
    if not can_trace(model):
        return None
    names: list[str] = model.header.class_names

    def explain(image: np.ndarray, boxes: np.ndarray, classes: list[str]) -> list[tuple[str, str]]:
        was_training = model.training
        batch = batch_images([image], model.preprocessing).to(next(model.parameters()).device)
        followed = trace(model.eval(), batch)
        model.train(was_training)
        scale = (batch.sizes[0] / batch.original_sizes[0]).flip(0).repeat(2).double().cpu().numpy()
        found = [
            lost_at(followed, box * scale, names.index(name))
            for box, name in zip(boxes, classes, strict=True)
        ]
        return [(one.stage, with_names(one.words, names)) for one in found]

    return explain


def with_names(words: str, class_names: list[str]) -> str:
    """An explanation with the names of classes in the place of their labels."""
    return re.sub(r"\bclass (\d+)\b", lambda label: f"class {class_names[int(label[1])]}", words)


def can_trace(model: Model) -> bool:
    """Whether `trace` knows the stages of this detector."""
    return isinstance(model, DenseDetector) or (
        isinstance(model, FasterRCNN) and isinstance(model.roi_head, RoIHead)
    )


def _iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(n,): of xyxy boxes (n, 4) with one (4,)."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = sides.clip(0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
    return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
