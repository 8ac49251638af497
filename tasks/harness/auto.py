"""What training chooses where the settings leave it open, and the sentence that says so: norm, learning rate."""

import shutil
from collections.abc import Mapping
from typing import Any

from backbones.create import find_builder
from backbones.spec import default_options

SMALL_BATCH = 16
"""Batch norm with fewer images than this loses accuracy (Group Normalization, figure 1), and more the fewer."""


def scaled_rate(rate: float, reference: int, images: int) -> float:
    """The learning rate for `images` a step of a recipe that gives `rate` for `reference` images a step: in
    proportion (Accurate, Large Minibatch SGD, section 2.1)."""
    if reference < 1:
        raise ValueError(
            f"reference_batch_size={reference} must be at least 1, or null for the rate as written"
        )
    return rate * images / reference


def rate_sentence(rate: float, reference: int, batch_size: int, num_devices: int, accumulated: int) -> str:
    """How the learning rate came about, as `batch 2 x 1 device x 1 accumulated: 0.0025 for the recipe's 0.02 at 16`."""
    scaled = scaled_rate(rate, reference, batch_size * num_devices * accumulated)
    devices = "device" if num_devices == 1 else "devices"
    return (
        f"batch {batch_size} x {num_devices} {devices} x {accumulated} accumulated: {scaled:.4g} for the recipe's "
        f"{rate:g} at {reference}"
    )


def backbone_norm(
    backbone: Mapping[str, Any], norm: str, *, batch_size: int, starts_from: str | None
) -> tuple[str | None, str]:
    """The norm layers for `backbone` where its settings name none, and why in words; None leaves them alone.

    Args:
        backbone: its settings, `name` and options.
        norm: the setting; `auto` chooses.
        batch_size: images that meet in one norm layer.
        starts_from: the norm of the weights that training starts from; None for random ones.
    """
    options = default_options(find_builder(backbone["name"]))
    if "norm" in backbone or options.get("norm") is None:  # its own, none, or a network that brings its norms
        return None, ""
    if norm != "auto":
        return norm, ""
    if batch_size >= SMALL_BATCH:
        return None, ""
    few = f"norm=auto: {batch_size} image{'s' * (batch_size > 1)} a device, fewer than {SMALL_BATCH}"
    if starts_from is None:
        return "group", f"{few}, are few for batch norm: group norm (norm=batch has it all the same)"
    if starts_from == "group":
        return "group", ""
    return (
        "frozen",
        f"{few}, would spoil the statistics of pretrained weights: frozen batch norm (norm=batch trains it)",
    )


def check_compiler() -> None:
    """Raises ValueError where `torch.compile` would find no compiler."""
    if not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise ValueError(
            "compile=backbone needs a C++ compiler, and neither g++ nor clang++ is on the PATH; install one or "
            "leave compile out"
        )
