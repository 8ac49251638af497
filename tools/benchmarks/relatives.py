"""Training steps of our own detectors beside the ones that they are made of: what the additions cost.

On a CPU in seconds of the processor, all threads together, which other programs disturb less than the clock.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model

from .pairs import NUM_CLASSES, make_batch, our_loss
from .timing import Result, in_turns
from .training import step

BACKBONE = {"name": "resnet50", "norm": "frozen", "frozen_stages": 1}
CASCADE = {"cascade": [0.5, 0.6, 0.7]}
RELATIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # each with the one that it is made of
    "gfl_r50_fpn": ({"name": "gfl"}, {"name": "fcos"}),
    "gfl_task_aligned_r50_fpn": ({"name": "gfl", "assignment": "task_aligned"}, {"name": "fcos"}),
    "cascade_rcnn_r50_fpn": ({"name": "faster_rcnn", **CASCADE}, {"name": "faster_rcnn"}),
    "cascade_mask_rcnn_r50_fpn": ({"name": "mask_rcnn", **CASCADE}, {"name": "mask_rcnn"}),
}


def relatives(arguments: Namespace) -> Iterator[Result]:
    """A result for each size, batch and precision: seconds of both, and how many times longer the first takes."""
    if arguments.model not in RELATIVES:
        raise SystemExit(f"error: --model {arguments.model} is unknown; there are {', '.join(RELATIVES)}")
    for height, width in arguments.size:
        for num_images in arguments.batch:
            masks = "mask" in arguments.model
            batch = make_batch(num_images, height, width, arguments.instances, masks=masks)
            batch = batch.to(arguments.device)
            loss = partial(our_loss, batch=batch)
            for precision in arguments.precision:
                specs = zip((arguments.model, "relative"), RELATIVES[arguments.model], strict=True)
                variants = {
                    name: step(build(spec, arguments.device), loss, precision, arguments.device)
                    for name, spec in specs
                }
                seconds, peaks = in_turns(variants, arguments.repeats, arguments.device, time.process_time)
                setting = {"model": arguments.model, "size": f"{height}x{width}", "batch": num_images}
                yield Result(
                    "relatives",
                    {**setting, "precision": precision},
                    "none: they compute different losses",
                    seconds,
                    [("relative", arguments.model)],
                    {"peak_bytes": peaks},
                )


def build(spec: dict[str, Any], device: str) -> Any:
    """The detector in training, in channels_last."""
    torch.manual_seed(0)
    preprocessing = Preprocessing()
    model = build_model({**spec, "backbone": BACKBONE}, num_classes=NUM_CLASSES, preprocessing=preprocessing)
    return model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
