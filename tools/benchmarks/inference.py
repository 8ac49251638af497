"""From images to detections, masks as run lengths: ours beside torchvision's with pycocotools."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou

from backbones.layers import fold_once
from tasks.contracts import Batch
from tasks.metrics.run_lengths import bitmaps, encode

from .pairs import detector_pair, make_batch, to_images
from .timing import Result, beside_torchvision, full_precision, in_precision, in_turns

Found = list[tuple[torch.Tensor, torch.Tensor, list[bytes]]]
"""Boxes (N, 4), scores (N,) and run lengths of each image."""


def infer(arguments: Namespace) -> Iterator[Result]:
    """A result for each size and batch."""
    device = arguments.device
    for height, width in arguments.size:
        for num_images in arguments.batch:
            batch = make_batch(num_images, height, width, 1, masks=False)
            ours: Any
            ours, theirs = detector_pair(arguments.model, batch)
            if hasattr(theirs, "roi_heads"):
                head = ours.roi_head
                head.detection = replace(head.detection, max_detections=arguments.dets)
                theirs.roi_heads.detections_per_img = arguments.dets
            else:
                ours.settings = replace(ours.settings, max_detections=arguments.dets)
                theirs.detections_per_img = arguments.dets
            batch = batch.to(device)
            ours.to(device, memory_format=torch.channels_last).eval()
            theirs.to(device).eval()
            best = deepcopy(theirs).to(memory_format=torch.channels_last)
            if arguments.compile:
                for model in (ours, theirs, best):
                    model.backbone.compile()
            images = to_images(batch)
            with full_precision():
                expected = run_theirs(theirs, images)
                tolerance = max(1e-4, 2 * rounding(expected, run_theirs(best, images)))
                check = compare(run_ours(ours, batch), expected, (height, width), tolerance)
            fold_once(ours)
            variants, pairs = beside_torchvision(
                partial(in_precision, device=device, run=partial(run_ours, ours, batch)),
                partial(in_precision, device=device, run=partial(run_theirs, theirs, images)),
                partial(in_precision, device=device, run=partial(run_theirs, best, images)),
                arguments.precision,
            )
            seconds, peaks = in_turns(variants, arguments.repeats, device)
            setting = {"model": arguments.model, "size": f"{height}x{width}", "batch": num_images}
            yield Result("infer", setting, check, seconds, pairs, {"peak_bytes": peaks})


@torch.inference_mode()
def run_ours(model: Any, batch: Batch) -> Found:
    """Our detections; fixed norms are in the weights from the first call on, as predictor and evaluation have it."""
    found = model(batch).to_original(batch.sizes, batch.original_sizes)
    results = []
    for i, (height, width) in enumerate(batch.original_sizes.tolist()):
        rows = found.labels[i] >= 0
        boxes, masks = found.boxes[i, rows], []
        if found.masks is not None:
            masks = encode(bitmaps(found.masks[i, rows], boxes, height, width), height, width)
        results.append((boxes, found.scores[i, rows], masks))
    return results


@torch.inference_mode()
def run_theirs(model: Any, images: list[torch.Tensor]) -> Found:
    """Torchvision's detections."""
    results = []
    for found in model(images):
        masks = []
        if "masks" in found:
            pasted = (found["masks"][:, 0] > 0.5).cpu().numpy()
            masks = coco_run_lengths(pasted)
        results.append((found["boxes"], found["scores"], masks))
    return results


def coco_run_lengths(masks: np.ndarray) -> list[Any]:
    """Those of bitmaps (N, H, W), by pycocotools."""
    return [
        coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]  # pyright: ignore[reportArgumentType]
        for mask in masks
    ]


def rounding(found: Found, again: Found) -> float:
    """How far scores of the same network lie apart in two memory formats, whose sums run in another order."""
    pairs = zip(found, again, strict=True)
    return max(
        (float((a[1] - b[1]).abs().max()) for a, b in pairs if len(a[1]) == len(b[1]) > 0), default=0.0
    )


def compare(ours: Found, theirs: Found, size: tuple[int, int], tolerance: float = 1e-4) -> str:
    """Raises AssertionError unless both found the same, with scores within `tolerance`."""
    number, pixels = 0, 0.0
    for (boxes, scores, masks), (their_boxes, their_scores, their_masks) in zip(ours, theirs, strict=True):
        assert len(scores) == len(their_scores) > 0, (len(scores), len(their_scores))
        torch.testing.assert_close(scores, their_scores, rtol=0, atol=tolerance)
        overlap = box_iou(boxes.float(), their_boxes)
        # Boxes of equal scores may stand in another order.
        assert overlap.amax(dim=1).min() > 0.999, overlap.amax(dim=1).min()
        number += len(scores)
        if masks:
            row = overlap.argmax(dim=1).tolist()
            ious = [
                coco_mask.iou([_rle(mine, size)], [_rle(their_masks[other], size)], [0])[0, 0]  # pyright: ignore
                for mine, other in zip(masks, row, strict=True)
            ]
            pixels = max(pixels, 1 - float(np.median(ious)))
    assert pixels < 0.01, pixels
    return f"{number} detections equal, scores within {tolerance:.0e}"


def _rle(counts: bytes, size: tuple[int, int]) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}
