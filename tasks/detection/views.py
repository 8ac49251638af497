"""Test-time augmentation: each image in several sizes, mirrored too, and one set of detections of all these views."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.contracts import Batch, Detections, Model
from tasks.device_copies import fetch, send
from tasks.preprocessing import Preprocessing

from .postprocess import best_of_each_image
from .suppression import suppress_images

LARGEST = 8
"""Times the model's own size that an image may be looked at; memory grows with the square."""


class ManyViews(Model):
    """A detector whose predictions come from several views of each image, merged by non-maximum suppression.

    Images come in the largest of the sizes (`preprocessing` says so), and the others are made of them, on their
    device. A mask stays with the box that it was found in. Losses are of the images as they come.
    """

    def __init__(self, model: Model, *, scales: Sequence[float] = (1.0,), flip: bool = False):
        """`scales` are sizes relative to the model's own; `flip` adds the mirror image of each.

        Raises:
            ValueError: no scales, or one that is not above 0 and at most `LARGEST`.
        """
        super().__init__()
        if not scales or not all(0 < scale <= LARGEST for scale in scales):
            raise ValueError(
                f"scales={list(scales)} must be one or more numbers above 0 and up to {LARGEST}, 1 the model's own size"
            )
        self.model = model
        own, largest = model.preprocessing, max(scales)
        if own.short_side is None:  # images come as they are stored
            self.preprocessing, largest = own, 1.0
        else:
            short_side = max(1, round(own.short_side * largest))
            self.preprocessing = replace(
                own, short_side=short_side, max_size=max(short_side, round(own.max_size * largest))
            )
        self.views = [(scale / largest, flipped) for scale in scales for flipped in (False, True)[: 1 + flip]]
        self.header = replace(model.header, preprocessing=self.preprocessing.to_dict())
        self.nms_threshold: float = model.header.model.get("nms_threshold", 0.5)

    def features(self, batch: Batch) -> Any:
        return self.model.features(batch)

    def losses(self, features: Any, batch: Batch) -> dict[str, Tensor]:
        return self.model.losses(features, batch)

    def predictions(self, features: Any, batch: Batch) -> Detections:
        found = []
        sizes = fetch(batch.sizes)[0].tolist()
        for factor, flipped in self.views:
            if factor == 1 and not flipped:
                found.append(self.model.predictions(features, batch))
            else:
                view = view_of(batch, self.preprocessing, factor, flipped, sizes)
                found.append(seen_from(self.model(view), view.sizes, batch.sizes, flipped))
        return merge_views(found, self.nms_threshold)


def view_of(
    batch: Batch,
    preprocessing: Preprocessing,
    factor: float,
    flipped: bool,
    host_sizes: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """The images of `batch`, without targets, `factor` times as large and, if `flipped`, mirrored left to right.

    `host_sizes` are `batch.sizes`, for a caller that has fetched them.
    """
    old_sizes = batch.sizes.tolist() if host_sizes is None else host_sizes
    sizes = [(max(1, round(height * factor)), max(1, round(width * factor))) for height, width in old_sizes]
    # By the padded size, not by the valid ones: what surrounds an image must not depend on the others of the batch.
    height, width = batch.images.shape[-2:]
    padded = preprocessing.padded_size([(math.ceil(height * factor), math.ceil(width * factor))])
    images = batch.images.new_zeros(len(batch), 3, *padded)
    for view, image, old, new in zip(images, batch.images, old_sizes, sizes, strict=True):
        pixels = image[:, : old[0], : old[1]]
        if new != tuple(old):
            resized = F.interpolate(pixels[None].float(), new, mode="bilinear", antialias=True)[0]
            pixels = resized.round().clamp(0, 255).to(torch.uint8)
        view[:, : new[0], : new[1]] = pixels.flip(-1) if flipped else pixels
    return Batch(
        images=images.contiguous(memory_format=torch.channels_last),
        sizes=send(sizes, batch.sizes.device),
        original_sizes=batch.original_sizes,
        image_ids=batch.image_ids,
        boxes=batch.boxes[:, :0],
        labels=batch.labels[:, :0],
        is_crowd=batch.is_crowd[:, :0],
    )


def seen_from(found: Detections, sizes: Tensor, batch_sizes: Tensor, flipped: bool) -> Detections:
    """Detections in a view with images of `sizes` (B, 2), in pixels of the batch with those of `batch_sizes`."""
    boxes, masks = found.boxes, found.masks
    if flipped:
        left, top, right, bottom = boxes.unbind(-1)
        width = sizes[:, 1:].to(boxes)
        boxes = torch.stack((width - right, top, width - left, bottom), dim=-1)
        boxes = boxes.where((found.labels >= 0)[..., None], 0)
        masks = None if masks is None else masks.flip(-1)
    return replace(found, boxes=boxes, masks=masks).to_original(sizes, batch_sizes)


def merge_views(found: Sequence[Detections], nms_threshold: float) -> Detections:
    """The best of all these detections of the same images, as many rows as each has. Of detections of one class
    that overlap more than `nms_threshold`, only the best stays."""
    boxes, scores, labels = (
        torch.cat([getattr(one, name) for one in found], dim=1) for name in ("boxes", "scores", "labels")
    )
    all_masks = [one.masks for one in found if one.masks is not None]
    masks = torch.cat(all_masks, dim=1) if all_masks else None
    is_found = labels >= 0
    num_classes = 1 + int(fetch(labels.amax())[0]) if labels.numel() else 0
    boxes = boxes.where(is_found[..., None], 0)  # padding suppresses nothing
    keep = is_found & suppress_images(boxes, scores, labels.clamp(min=0), max(1, num_classes), nms_threshold)
    return best_of_each_image(boxes, scores.where(keep, 0), labels, found[0].labels.shape[1], masks)
