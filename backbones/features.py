"""The contract of a backbone: images in, named feature maps out, with channels and strides declared."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn


class FeatureInfo(NamedTuple):
    """What a consumer must know of one feature map before it has seen one."""

    channels: int
    """Number of channels of the map."""
    stride: int
    """Input pixels per cell, along each side: 2 ** n for level ``cn`` or ``pn``."""


class FeatureExtractor(nn.Module):
    """Base class of everything that turns images into feature maps: backbones and pyramids.

    ``forward(images)`` takes float images (B, ``in_channels``, H, W), already normalised, and returns a
    dict of maps (B, ``channels``, ceil(H / ``stride``), ceil(W / ``stride``)) in order of growing stride.
    Keys are ``c2`` … ``c5`` for a backbone and ``p2`` … ``p7`` for a pyramid; level n has stride
    2 ** n, except that dilation (``output_stride``) keeps the key and lowers the stride. Networks for
    tiny images start earlier: a CIFAR ResNet gives ``c0`` … ``c2``.
    """

    feature_info: dict[str, FeatureInfo]
    """Channels and stride of each map, with exactly the keys of ``forward``'s result, in its order."""
    in_channels: int
    """Channels of the images."""
    stages: Sequence[Sequence[str]] = ()
    """Names of the submodules that make up the stem, then of those of each stage: what freezing needs."""
    frozen_modules: Sequence[str] = ()
    """Names of the submodules that stay in evaluation mode; `freezing.freeze` fills it."""
    _spec: Mapping[str, Any] | None = None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    @property
    def described(self) -> bool:
        """Whether `spec` is known."""
        return self._spec is not None

    @property
    def spec(self) -> dict[str, Any]:
        """The architecture in plain JSON values: ``backbones.build(extractor.spec)`` builds it again."""
        if self._spec is None:
            raise ValueError(
                f"this {type(self).__name__} cannot describe itself, because its class does not record its "
                "options; build the backbone with backbones.create, or decorate the class's __init__ with "
                "backbones.spec.describes_itself"
            )
        return dict(self._spec)

    @spec.setter
    def spec(self, spec: Mapping[str, Any]) -> None:
        self._spec = dict(spec)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the frozen submodules.

        Here and not in whoever freezes, because every trainer calls ``.train()`` again (Lightning does so
        at the start of each fit), and a batch norm in training mode changes its statistics.
        """
        super().train(mode)
        for name in self.frozen_modules:  # names, since converting to SyncBatchNorm replaces the modules
            self.get_submodule(name).eval()
        return self

    def check_images(self, images: Tensor) -> None:
        """Raises ValueError for images that this network cannot take; every ``forward`` calls it first."""
        if torch.compiler.is_compiling():  # also true under torch.export, whose sizes may be symbols
            return
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, but this backbone takes (batch, "
                f"{self.in_channels}, height, width); stack the images, or build it with other in_channels"
            )
        if not images.is_floating_point():
            raise ValueError(
                f"images are {str(images.dtype).removeprefix('torch.')}, but a backbone takes normalised "
                "floats; divide by 255, then subtract the mean and divide by the std of its weights"
            )
        stride = max(info.stride for info in self.feature_info.values())
        height, width = images.shape[-2:]
        if min(height, width) < stride:
            raise ValueError(
                f"images of {height}x{width} pixels are smaller than the backbone's largest stride, "
                f"{stride}; enlarge or pad them to at least {stride}x{stride}"
            )
