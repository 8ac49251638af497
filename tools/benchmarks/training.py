"""Training steps: ours in channels_last beside torchvision's default (float32, NCHW) and its best setting."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pairs import (
    classifier_pair,
    compare_losses,
    detector_pair,
    make_batch,
    our_loss,
    their_loss,
    to_images,
    to_targets,
)
from .timing import Result, autocast, beside_torchvision, full_precision, in_turns


def train_step(arguments: Namespace) -> Iterator[Result]:
    """A result for each size and batch."""
    for height, width in arguments.size:
        for num_images in arguments.batch:
            check, ours, theirs = losses_of(arguments, num_images, height, width)
            variants, pairs = steps(arguments, ours, theirs)
            seconds, peaks = in_turns(variants, arguments.repeats, arguments.device)
            setting = {"model": arguments.model, "size": f"{height}x{width}", "batch": num_images}
            if arguments.compile:
                setting["compile"] = True
            rate = {name: round(num_images / min(s), 2) for name, s in seconds.items()}
            others = {"images_a_second": rate, "peak_bytes": peaks}
            yield Result("train-step", setting, check, seconds, pairs, others)


Losses = tuple[nn.Module, Callable[[nn.Module], Tensor]]
"""A network, and what computes its total loss."""


def steps(
    arguments: Namespace, ours: Losses, theirs: Losses
) -> tuple[dict[str, Callable[[], None]], list[tuple[str, str]]]:
    """A step of each variant, and the pairs to compare."""
    model, loss = ours
    other, other_loss = theirs
    best = deepcopy(other).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if arguments.compile:
        for network in (model, other, best):
            getattr(network, "backbone", network).compile()
    return beside_torchvision(
        lambda precision: step(model, loss, precision, arguments.device),
        lambda precision: step(other, other_loss, precision, arguments.device),
        lambda precision: step(best, other_loss, precision, arguments.device),
        arguments.precision,
    )


def step(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], precision: str, device: str
) -> Callable[[], None]:
    """One step with SGD, whose rate of 0 leaves the weights as they are."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)

    def run() -> None:
        with autocast(precision, device):
            total = loss(model)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def losses_of(arguments: Namespace, num_images: int, height: int, width: int) -> tuple[str, Losses, Losses]:
    """The pair called `--model`, whose losses were compared."""
    if arguments.model == "resnet50":
        return classifier_losses(num_images, height, width, arguments.device)
    batch = make_batch(num_images, height, width, arguments.instances, masks="mask" in arguments.model)
    model, other = detector_pair(arguments.model, batch)
    batch = batch.to(arguments.device)
    model.to(arguments.device)
    other.to(arguments.device)
    with full_precision():
        check = compare_losses(model, other, batch)
    images, targets = to_images(batch), to_targets(batch, other)
    losses = partial(our_loss, batch=batch), partial(their_loss, images=images, targets=targets)
    return check, (model, losses[0]), (other, losses[1])


def classifier_losses(num_images: int, height: int, width: int, device: str) -> tuple[str, Losses, Losses]:
    """ResNet-50 with its classifier on one batch; images are bytes for us and floats for torchvision."""
    model, other = classifier_pair()
    batch = make_batch(num_images, height, width, 1, masks=False)
    batch = replace(batch, class_ids=torch.arange(num_images)).to(device)
    images = model.preprocessing.normalize(batch.images, batch.sizes).contiguous()
    model.to(device)
    other.to(device)

    def ours(model: Any) -> Tensor:
        return model.losses(model.features(batch), batch)["loss_class"]

    def theirs(model: nn.Module) -> Tensor:
        assert batch.class_ids is not None
        return F.cross_entropy(model(images), batch.class_ids)

    with torch.no_grad(), full_precision():
        difference = abs(float(ours(model) / theirs(other)) - 1)
    assert difference < 1e-3, difference
    return f"loss equal within {difference:.0e}", (model, ours), (other, theirs)
