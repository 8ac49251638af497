"""Box heads one after another, each trained to refine the boxes that the one before gives.

Cascade R-CNN: Delving into High Quality Object Detection (Cai and Vasconcelos, 2018), section 4. The legend is that of
`roi_head.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tasks.contracts import Batch, Detections
from tasks.distributed import LossSum

from .boxes import at_least, clip, decode
from .matching import match, take_matched
from .roi_align import PyramidTable, multilevel_roi_align
from .roi_head import DELTA_WEIGHTS, BoxHeadSettings, RoIHead, RoISamples

_MIN_SIZE = 1e-3  # pixels; refined boxes thinner than this are dropped, like proposals
_LOSS_FACTOR = 0.5  # of a head's losses, beside those of the head before: 1, 0.5, 0.25


def cascade_head(
    make_head: Callable[..., RoIHead], settings: BoxHeadSettings, ious: Sequence[float]
) -> "RoIHead | CascadeHead":
    """As many heads as `ious`, the overlaps from which boxes are positive, each made with `settings`; one is a plain
    head.

    Each head has less left to refine than the one before, so its deltas weigh more: (10, 10, 5, 5) times 1, 2, 3.
    """
    of_stages = [replace(settings, box_foreground_iou=iou) for iou in ious]
    if len(ious) == 1:
        return make_head(settings=of_stages[0])
    return CascadeHead(
        make_head(settings=of_stage, weights=tuple(number * w for w in DELTA_WEIGHTS), class_agnostic=True)
        for number, of_stage in enumerate(of_stages, 1)
    )


class CascadeHead(nn.Module):
    """The heads, with the methods of one."""

    heads: Sequence[RoIHead]

    def __init__(self, heads: Iterable[RoIHead]):
        super().__init__()
        self.heads = nn.ModuleList(heads)  # type: ignore[assignment]
        self.num_classes = self.heads[0].num_classes
        self.settings = self.heads[0].settings

    def sample(
        self, proposals: Tensor, valid: Tensor, gt_boxes: Tensor, gt_labels: Tensor, gt_valid: Tensor
    ) -> RoISamples:
        """What the first head is trained on."""
        return self.heads[0].sample(proposals, valid, gt_boxes, gt_labels, gt_valid)

    def train_on(
        self, table: PyramidTable, samples: RoISamples, batch: Batch, gt_valid: Tensor
    ) -> tuple[dict[str, LossSum], RoISamples]:
        """The losses of all heads, under the name of one with the number of the head from the second on, and the
        samples of the last head."""
        losses = {}
        logits, deltas = self.heads[0](table, samples.boxes, samples.valid)
        for number, head in enumerate(self.heads):
            if number:
                boxes, valid = _refined(
                    self.heads[number - 1], deltas, samples.boxes, samples.valid, batch.sizes
                )
                samples = _match_again(head, boxes, valid, batch, gt_valid)
                logits, deltas = head(table, boxes, valid)
            for name, loss in head.losses(logits, deltas, samples, batch.boxes).items():
                losses[f"{name}_{number + 1}" if number else name] = loss._replace(
                    total=loss.total * _LOSS_FACTOR**number
                )
        return losses, samples

    def detect(self, table: PyramidTable, proposals: Tensor, valid: Tensor, sizes: Tensor) -> Detections:
        """Detections for `proposals` (B, R, 4) where `valid` (B, R), in images of `sizes` (B, 2): the boxes of the last
        head, with the mean of what all heads say of the boxes that it refines."""
        boxes = proposals
        for head in self.heads[:-1]:
            _, deltas = head(table, boxes, valid)
            boxes, valid = _refined(head, deltas, boxes, valid, sizes)
        pooled = multilevel_roi_align(table, boxes, self.settings.box_roi_size)
        answers = [head.read(pooled, valid) for head in self.heads]
        scores = torch.stack([logits.float().softmax(dim=-1) for logits, _ in answers]).mean(dim=0)
        return self.heads[-1].predictions(scores.log(), answers[-1][1], boxes, valid, sizes)

    def class_layers(self) -> dict[str, int]:
        return {f"heads.{number}.classes": 1 for number in range(len(self.heads))}


@torch.no_grad()
def _refined(
    head: RoIHead, deltas: Tensor, boxes: Tensor, valid: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """What `deltas` (B, R, K, 4), the same for all classes, make of `boxes` (B, R, 4), and which of them (B, R) are
    boxes; 0 elsewhere."""
    boxes = clip(decode(deltas[:, :, 0], boxes, head.weights), sizes)
    valid = valid & at_least(boxes, _MIN_SIZE)
    return boxes.where(valid[..., None], 0), valid


@torch.no_grad()
def _match_again(head: RoIHead, boxes: Tensor, valid: Tensor, batch: Batch, gt_valid: Tensor) -> RoISamples:
    """All of `boxes` (B, S, 4) where `valid` (B, S) as samples for `head`."""
    least = head.settings.box_foreground_iou
    matches = match(boxes, batch.boxes, gt_valid, foreground_iou=least, background_iou=least)
    matches = matches.where(valid & (matches >= 0), -1)
    labels = take_matched(batch.labels, matches, head.num_classes)
    return RoISamples(boxes, matches, labels, matches >= 0, valid)
