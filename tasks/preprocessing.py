"""The one description of how pixels reach a network: size, padding, mean and std.

The data pipeline and prediction resize by `output_size` and pad to `padded_size`; the model calls
`normalize` on its own device. A model file carries the description, so all of them agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


MAX_SIDE = 1 << 15
"""Pixels of the longest side that a network is given; a picture of such sides fills 3 GB."""


@dataclass(frozen=True)
class Preprocessing:
    """How images of any size become a batch of network inputs. Images are RGB."""

    short_side: int | None = 800
    """Resize so that the shorter side has this many pixels; None keeps images at their size."""
    max_size: int = 1333
    """... unless the longer side would pass this; then that side gets exactly this."""
    pad_multiple: int = 32
    """Heights and widths of a batch are padded up to a multiple of this."""
    center_crop: int | None = None
    """After resizing, keep the central square of this side, as published classifiers do. Then `max_size`
    and `pad_multiple` do not apply."""
    antialias: bool = False
    """Average over all pixels that fall into one when shrinking (PIL's bilinear, which torchvision's
    classifiers were trained and scored with), instead of looking at the nearest four alone."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel, on a scale of 0 … 1 (ImageNet's)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        try:
            self._check()
        except TypeError:
            check_types_of(vars(self))  # says which of them it is
            raise

    def _check(self) -> None:
        # Plain lists arrive from YAML and JSON; tuples keep the description hashable and comparable.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(
                f"preprocessing.mean={list(self.mean)} must be finite, and preprocessing.std={list(self.std)} above 0"
            )
        for name in ("max_size", "pad_multiple"):
            if not 1 <= getattr(self, name) <= MAX_SIDE:
                raise ValueError(
                    f"preprocessing.{name}={getattr(self, name)} must be between 1 and {MAX_SIDE}"
                )
        if self.short_side is not None and not 1 <= self.short_side <= self.max_size:
            raise ValueError(
                f"preprocessing.short_side={self.short_side} must be between 1 and max_size={self.max_size}"
            )
        if self.center_crop is not None and not 1 <= self.center_crop <= (self.short_side or 0):
            raise ValueError(
                f"preprocessing.center_crop={self.center_crop} must be between 1 and preprocessing.short_side="
                f"{self.short_side}, or there would be images smaller than the crop; set short_side as well"
            )

    @classmethod
    def of(cls, value: Preprocessing | Mapping[str, Any] | None) -> Preprocessing:
        """From itself or its values; None for the defaults."""
        if isinstance(value, Preprocessing):
            return value
        known = {field.name for field in fields(cls)}
        for name in value or {}:
            if name not in known:
                from backbones.checks import suggest

                raise ValueError(f"preprocessing has no setting {name!r:.60}; {suggest(str(name), known)}")
        check_types_of(value or {})
        return cls(**(value or {}))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing and before cropping; the shape is kept up to rounding down, never
        below one pixel.

        torchvision's rules (`GeneralizedRCNNTransform`; with `center_crop`, `ImageClassification`), so that
        its weights see what they were trained on.
        """
        if self.short_side is None:
            return height, width
        if self.center_crop is not None:
            short = min(height, width)
            return self.short_side * height // short, self.short_side * width // short
        scale = min(self.short_side / min(height, width), self.max_size / max(height, width))
        return max(1, int(height * scale)), max(1, int(width * scale))

    def padded_size(self, sizes: list[tuple[int, int]]) -> tuple[int, int]:
        """(height, width) that holds images of all these `sizes`."""
        multiple = self.pad_multiple if self.center_crop is None else 1
        height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
        return height, width

    def normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 (x / 255 - mean) / std, exactly 0 outside each valid (h, w) in `sizes`."""
        import torch  # here, as whoever only reads files of data needs none

        # What is made while exporting or compiling belongs to that graph, and is not kept.
        compiling = torch.compiler.is_compiling()
        make = _scale_and_shift.__wrapped__ if compiling else _scale_and_shift
        scale, shift = make(self.mean, self.std, images.device)
        normalized = images.float().mul_(scale).sub_(shift)
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, 0, None]
        columns = torch.arange(width, device=images.device) < sizes[:, 1, None]
        return normalized.mul_(rows[:, None, :, None] & columns[:, None, None, :])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a model file's header; `Preprocessing(**values)` reads them back."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


# Cached because a constant sent to a GPU waits for it; outside inference mode because a tensor made inside it
# cannot take part in training later.
@lru_cache(maxsize=8)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Two (3, 1, 1) tensors with normalised = pixel * scale - shift."""
    import torch

    with torch.inference_mode(False):
        means, stds = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
        return 1 / (255 * stds), means / stds


def check_types_of(values: Mapping[str, Any]) -> None:
    """Raises ValueError for a value of the wrong type, as a file may have it."""
    if values:
        from backbones.checks import check_types  # brings torch along, which reading data does without

        check_types("preprocessing.", Preprocessing, values)
