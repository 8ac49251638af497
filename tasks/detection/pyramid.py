"""The feature maps that a detector stands on: a backbone with a pyramid of equal channels and doubling strides."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import backbones

P3_TO_P7: Mapping[str, Any] = MappingProxyType({"levels": ("c3", "c4", "c5"), "extra": "conv_p5"})
"""Pyramid of the one-stage detectors: P2 would have most of all anchors (Focal Loss, section 4)."""


def detector_pyramid(
    model: str,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[backbones.FeatureExtractor, int, list[int]]:
    """The extractor for `backbone` and `pyramid`, the channels of its maps and their strides, finest first.

    `defaults` are what `model` takes for whatever `pyramid` leaves open of an "fpn" or "pafpn". A plain vision
    transformer gets a "simple" one where `pyramid` names none.

    Raises:
        ValueError: an unknown backbone, pyramid or option, or maps that no detector of this kind can use.
    """
    extractor = backbones.create(**backbone)
    given = dict(pyramid or {})
    given.setdefault("name", backbones.usual_pyramid(extractor.feature_info))
    if given["name"] in ("fpn", "pafpn"):
        given = {**(defaults or {}), **given}
        if pyramid is None or "levels" not in pyramid:  # a network for tiny images has others
            levels = [level for level in given.get("levels", ()) if level in extractor.feature_info]
            given["levels"] = levels or None
    built = backbones.create_pyramid(extractor, **given)
    infos = built.feature_info.values()
    strides = [info.stride for info in infos]
    if len({info.channels for info in infos}) != 1 or any(
        coarse != 2 * fine for fine, coarse in pairwise(strides)
    ):
        found = ", ".join(f"{k} {v.channels} at stride {v.stride}" for k, v in built.feature_info.items())
        raise ValueError(
            f"{model} needs maps of equal channels with strides that double from level to level; the "
            f"pyramid gives {found}: choose a pyramid and backbone options that do (no output_stride)"
        )
    return built, next(iter(infos)).channels, strides


def sizes_of_levels(
    given: Sequence[float] | None, extractor: backbones.FeatureExtractor, strides: int
) -> Sequence[float]:
    """The anchor size of each map of `extractor`: those `given`, which must be as many, or so many `strides` of it."""
    levels = extractor.feature_info
    if given is None:
        return [strides * info.stride for info in levels.values()]
    if len(given) != len(levels):
        raise ValueError(
            f"anchor_sizes has {len(given)} values {list(given)}; the pyramid has {len(levels)} "
            f"levels ({', '.join(levels)}) and each needs one"
        )
    return given
