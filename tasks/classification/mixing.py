"""Mixup and CutMix: each image of a batch together with the one before it, and its share of either class.

Legend, beside that of tasks/contracts.py:
    share   part of a mixed image that is still the image itself, 0 … 1; the rest is the one before it in the
            batch, for the first the last
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.contracts import Batch


class Mixing:
    """Mixes batches, by Mixup or by CutMix; where both are on, each has every second batch by chance.

    `mixup` and `cutmix` are the α of Beta(α, α), which the share is drawn from: the larger, the more evenly
    are images mixed. 0 turns a method off.
    """

    def __init__(self, *, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if isinstance(alpha, str | bool) or not 0 <= alpha < float("inf"):
                raise ValueError(
                    f"task.{name}={alpha} must be 0, for none, or the α of Beta(α, α), such as 0.2 or 1"
                )
        self.methods = [(mix, alpha) for mix, alpha in ((blend, mixup), (paste, cutmix)) if alpha > 0]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.methods)

    def __call__(self, batch: Batch, num_classes: int, seed: Sequence[int]) -> Batch:
        """The batch mixed, with `class_weights`; the same for the same `seed`, say (run, epoch, batch, rank).

        Everything random is drawn on the CPU, so that the device is not waited for.
        """
        if not self:
            return batch
        assert batch.class_ids is not None, "the batch has no classes"
        generator = np.random.default_rng(seed)
        mix, alpha = self.methods[generator.integers(len(self.methods))]
        images, share = mix(batch.images, float(generator.beta(alpha, alpha)), generator)
        return replace(batch, images=images, class_weights=mixed_classes(batch.class_ids, num_classes, share))


def check_sizes(batch: Batch) -> None:
    """Raises ValueError unless all images have the same valid size: others cannot be mixed."""
    sizes = batch.sizes.unique(dim=0)
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = sizes[:2].tolist()
        raise ValueError(
            f"task.mixup and task.cutmix need images of one size, but a batch has {height} x {width} and "
            f"{other_height} x {other_width}; set preprocessing.center_crop, or both to 0"
        )


def blend(images: Tensor, share: float, generator: np.random.Generator) -> tuple[Tensor, float]:
    """Mixup: the weighted mean of two images, to the nearest of uint8 (mixup: Beyond Empirical Risk
    Minimization, section 2). `images` is uint8 (B, 3, H, W); also gives the share as it came out."""
    own = images.float()
    return own.lerp(own.roll(1, dims=0), 1 - share).round_().to(torch.uint8), share


def paste(images: Tensor, share: float, generator: np.random.Generator) -> tuple[Tensor, float]:
    """CutMix: a rectangle of 1 - `share` of the area, its middle anywhere, comes from the other image (CutMix,
    section 3.1). `images` is uint8 (B, 3, H, W); what lies outside the image is lost, and the share that is
    given back counts the pixels that are left."""
    height, width = images.shape[-2:]
    top, bottom = cut(height, share, generator)
    left, right = cut(width, share, generator)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.roll(1, dims=0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def cut(side: int, share: float, generator: np.random.Generator) -> tuple[int, int]:
    """Where CutMix's rectangle begins and ends along one side of the image."""
    middle, length = int(generator.integers(side)), int(side * (1 - share) ** 0.5)
    return max(0, middle - length // 2), min(side, middle + length // 2)


def mixed_classes(class_ids: Tensor, num_classes: int, share: float) -> Tensor:
    """float32 (B, K): `share` of each image's class in `class_ids` (B,), the rest of the one before it."""
    own = F.one_hot(class_ids, num_classes).float()
    return own.lerp(own.roll(1, dims=0), 1 - share)
