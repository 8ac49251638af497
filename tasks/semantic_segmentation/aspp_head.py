"""The head of DeepLabV3: parallel convolutions of several dilations and the mean of the image, then classified.

Rethinking Atrous Convolution for Semantic Image Segmentation (Chen et al., 2017), section 3.3. Parameter
names and numerics are torchvision's (`torchvision.models.segmentation.deeplabv3.DeepLabHead`).

Legend:
    map   (B, C, h, w), the last map of the backbone, which usually dilates instead of shrinking further
    rate  dilation of a branch's 3x3 convolution, in cells of the map
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backbones.layers import make_norm


class ImageMean(nn.Module):
    """One vector of each image, the mean over its valid cells, on every cell again: the image-level features."""

    def __init__(self, in_channels: int, channels: int, norm: str):
        super().__init__()
        # After the place of torchvision's pooling, which has no weights either.
        self.add_module("1", nn.Conv2d(in_channels, channels, 1, bias=False))
        self.add_module("2", make_norm(norm, channels))
        self.needs_two = norm in ("batch", "sync")

    def forward(self, maps: Tensor, valid: Tensor) -> Tensor:
        """(B, channels, h, w); `valid` (B, 1, h, w) is 1 where a cell sees some of its image."""
        if self.training and self.needs_two and len(maps) < 2:
            raise ValueError(
                "model.norm=batch needs at least two images a batch, or the mean of the image has nothing to be "
                "compared with; raise loader.batch_size, or pass model.norm=group"
            )
        total = (maps * valid).sum(dim=(2, 3), keepdim=True, dtype=torch.float32)
        mean = (total / valid.sum(dim=(2, 3), keepdim=True, dtype=torch.float32)).to(maps.dtype)
        for module in self.children():
            mean = module(mean)
        return mean.relu().expand(-1, -1, *maps.shape[-2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 branch, a 3x3 branch for each rate, and the mean of the image."""

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], norm: str, dropout: float):
        super().__init__()
        self.convs = nn.ModuleList([_branch(in_channels, channels, None, norm)])
        self.convs.extend(_branch(in_channels, channels, rate, norm) for rate in rates)
        self.convs.append(ImageMean(in_channels, channels, norm))
        self.project = _branch(len(self.convs) * channels, channels, None, norm)
        self.project.append(nn.Dropout(dropout))

    def forward(self, maps: Tensor, valid: Tensor) -> Tensor:
        *local, image_mean = self.convs
        return self.project(torch.cat([*(conv(maps) for conv in local), image_mean(maps, valid)], dim=1))


class ASPPHead(nn.Sequential):
    """The backbone's last map to logits of its resolution."""

    class_layer = "4"
    """The layer that has an output for each class."""

    def __init__(
        self,
        level: str,
        in_channels: int,
        stride: int,
        *,
        num_classes: int,
        channels: int,
        rates: Sequence[int],
        norm: str,
        dropout: float,
    ):
        """`level` is the key of the map; each branch has `channels`, 256 in the paper, and each dilated one its own of
        the `rates`. `dropout` is the share of the joined features that is set to zero in training."""
        super().__init__(
            ASPP(in_channels, channels, rates, norm, dropout),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            make_norm(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.level = level
        self.stride = stride

    def forward(self, features: dict[str, Tensor], sizes: Tensor) -> Tensor:  # type: ignore[override]
        """(B, K, h, w) with the cells of the map; `sizes` (B, 2) are the valid (height, width) of the images."""
        maps = features[self.level]
        aspp, *rest = self
        x = aspp(maps, valid_cells(maps, sizes, self.stride))
        for module in rest:
            x = module(x)
        return x


def valid_cells(maps: Tensor, sizes: Tensor, stride: int) -> Tensor:
    """(B, 1, h, w) in the dtype of `maps`: 1 for the cells that see some of their image, 0 for padding, by
    which the answer for an image would otherwise depend on its company."""
    height, width = maps.shape[-2:]
    cells = (sizes + stride - 1).div(stride, rounding_mode="floor")
    rows = torch.arange(height, device=maps.device) < cells[:, 0, None]
    columns = torch.arange(width, device=maps.device) < cells[:, 1, None]
    return (rows[:, :, None] & columns[:, None, :])[:, None].to(maps.dtype)


def _branch(in_channels: int, channels: int, rate: int | None, norm: str) -> nn.Sequential:
    """Convolution, norm, ReLU: 1x1 without a rate, 3x3 dilated by one."""
    kernel, padding, dilation = (1, 0, 1) if rate is None else (3, rate, rate)
    conv = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, make_norm(norm, channels), nn.ReLU())
