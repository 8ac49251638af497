"""Single operators: RoIAlign, masks to run lengths, matching of anchors."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, box_iou

from tasks.detection.anchors import make_anchors
from tasks.detection.matching import match
from tasks.detection.roi_align import PyramidTable, multilevel_roi_align
from tasks.metrics.run_lengths import bitmaps, encode

from .inference import coco_run_lengths
from .pairs import make_batch
from .timing import Result, in_turns

STRIDES = (4, 8, 16, 32)
CHANNELS = 256


def roi_align(arguments: Namespace) -> Iterator[Result]:
    """Forward and backward over a pyramid in channels_last."""
    for height, width in arguments.size:
        for precision in arguments.precision:
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
            generator = torch.Generator().manual_seed(0)
            maps = [torch.randn(2, CHANNELS, height // s, width // s, generator=generator) for s in STRIDES]
            maps = [
                m.to(arguments.device, dtype, memory_format=torch.channels_last).requires_grad_()
                for m in maps
            ]
            boxes = make_batch(2, height, width, arguments.rois // 2, masks=False).boxes.to(arguments.device)
            pooler = MultiScaleRoIAlign([str(i) for i in range(4)], 7, 2)
            sizes = [(height, width)] * 2

            def ours(maps: list[Tensor] = maps, boxes: Tensor = boxes) -> Tensor:
                return multilevel_roi_align(PyramidTable.of(maps, STRIDES), boxes, 7)

            def theirs(
                maps: list[Tensor] = maps, boxes: Tensor = boxes, sizes: Any = sizes, pooler: Any = pooler
            ) -> Tensor:
                named = {str(i): m.float() for i, m in enumerate(maps)}  # as autocast does
                return pooler(named, list(boxes), sizes)

            with torch.no_grad():
                difference = float((ours().float() - theirs().float()).abs().max())
            assert difference < {"fp32": 1e-3, "bf16": 0.1}[precision], difference
            gradient = torch.randn(theirs().shape, generator=generator).to(arguments.device, dtype)
            gradient = gradient.contiguous(memory_format=torch.channels_last)

            def both_ways(forward: Any, maps: list[Tensor] = maps, gradient: Tensor = gradient) -> None:
                pooled = forward()
                torch.autograd.grad(pooled, maps, gradient.to(pooled.dtype))

            seconds, peaks = in_turns(
                {"ours": lambda: both_ways(ours), "torchvision": lambda: both_ways(theirs)},
                arguments.repeats,
                arguments.device,
            )
            setting = {"size": f"{height}x{width}", "rois": arguments.rois, "precision": precision}
            check = f"equal within {difference:.0e}"
            yield Result(
                "roi-align", setting, check, seconds, [("ours", "torchvision")], {"peak_bytes": peaks}
            )


def masks(arguments: Namespace) -> Iterator[Result]:
    """Probabilities on a grid over each box to COCO's run lengths."""
    for height, width in arguments.size:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(arguments.dets, 1, 5, 5, generator=generator)
        grids = torch.nn.functional.interpolate(coarse, (28, 28), mode="bicubic").clamp(0, 1)
        boxes = make_batch(1, height, width, arguments.dets, masks=False).boxes[0]
        sides = boxes[:5, 2:] - boxes[:5, :2]
        boxes[:5] -= (boxes[:5, :2] + 0.3 * sides).repeat(1, 2)  # some begin outside the image

        def ours(grids: Tensor = grids, boxes: Tensor = boxes, size: Any = (height, width)) -> list[bytes]:
            return encode(bitmaps(grids[:, 0], boxes, *size), *size)

        def theirs(grids: Tensor = grids, boxes: Tensor = boxes, size: Any = (height, width)) -> list[Any]:
            return coco_run_lengths((paste_masks_in_image(grids, boxes, size) > 0.5)[:, 0].numpy())

        assert ours() == theirs(), "pixels differ"
        seconds, _ = in_turns({"ours": ours, "torchvision": theirs}, arguments.repeats)
        setting = {"size": f"{height}x{width}", "dets": arguments.dets}
        yield Result("masks", setting, "0 pixels differ", seconds, [("ours", "torchvision")])


def assign(arguments: Namespace) -> Iterator[Result]:
    """Anchors of a pyramid to the objects of an image, as the proposal network does it."""
    for height, width in arguments.size:
        shapes = tuple((-(-height // s), -(-width // s)) for s in (*STRIDES, 64))
        device = torch.device(arguments.device)
        anchors = make_anchors((height, width), shapes, (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), device)
        matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        for num_objects in arguments.gts:
            boxes = make_batch(1, height, width, num_objects, masks=False).boxes.to(device)

            def ours(boxes: Tensor = boxes, anchors: Tensor = anchors) -> Tensor:
                valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
                options = {"foreground_iou": 0.7, "background_iou": 0.3, "low_quality": True}
                return match(anchors, boxes, valid, **options)[0]

            def theirs(boxes: Tensor = boxes, anchors: Tensor = anchors, matcher: Any = matcher) -> Tensor:
                return matcher(box_iou(boxes[0], anchors))

            different = int((ours() != theirs()).sum())
            assert different == 0, f"{different} matches differ"
            seconds, peaks = in_turns(
                {"ours": ours, "torchvision": theirs}, arguments.repeats, arguments.device
            )
            setting = {"size": f"{height}x{width}", "gts": num_objects, "anchors": len(anchors)}
            check = f"0 of {len(anchors)} matches differ"
            yield Result("assign", setting, check, seconds, [("ours", "torchvision")], {"peak_bytes": peaks})
