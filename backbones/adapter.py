"""What networks of other libraries need to keep the contract of a `FeatureExtractor`."""

from collections.abc import Iterator
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .features import FeatureExtractor
from .grouped import quick_groups
from .layers import BatchNorm


class AdaptedExtractor(FeatureExtractor):
    """Base class of adapters: sizes that the network would refuse or round down, weights, frozen norms."""

    network: nn.Module

    def published_weights(self, pretrained: bool | str) -> dict[str, Tensor]:
        """The weights that its own library publishes: True for its default, a tag, a path or a URL."""
        raise NotImplementedError

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps (B, C, H, W) of `feature_info`, for images whose sides the largest stride divides."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pads below and to the right with zeros where the largest stride does not divide a side.

        Padding by the network's own rules would round some sizes down: the contract rounds up.
        """
        self.check_images(images)
        height, width = images.shape[-2:]
        multiple = max(info.stride for info in self.feature_info.values())
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
        with quick_groups(padded):
            maps = self.maps(padded)
        return {
            level: x[:, :, : -(-height // info.stride), : -(-width // info.stride)]
            for (level, info), x in zip(self.feature_info.items(), maps, strict=True)
        }

    def freeze_norms(self) -> None:
        """Keeps every batch norm at its running statistics, scale and shift, as ``norm="frozen"`` would."""
        modules = cast(Iterator[tuple[str, nn.Module]], self.named_modules())
        names = [name for name, module in modules if isinstance(module, BatchNorm)]
        for name in names:
            self.get_submodule(name).requires_grad_(False)
        self.frozen_modules = (*self.frozen_modules, *names)
        self.train(self.training)
