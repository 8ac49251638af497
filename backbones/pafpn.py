"""Path aggregation: a second, bottom-up path over a feature pyramid.

Path Aggregation Network for Instance Segmentation (Liu et al., 2018), section 3.1: every convolution of the
new path is followed by a ReLU.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from .features import FeatureInfo
from .fpn import FPN, Extra, Fuse, conv_norm
from .layers import Norm


class PAFPN(FPN):
    """An `FPN` whose maps then gather what the finer ones hold, in few steps; options are those of `FPN`."""

    def __init__(
        self,
        feature_info: Mapping[str, FeatureInfo],
        *,
        channels: int = 256,
        levels: Sequence[str] | None = None,
        norm: Norm | None = None,
        extra: Extra = "pool",
        fuse: Fuse = "sum",
    ):
        super().__init__(feature_info, channels=channels, levels=levels, norm=norm, extra=extra, fuse=fuse)
        strides = [feature_info[level].stride for level in self.levels]
        self.down_blocks = nn.ModuleList(
            conv_norm(channels, channels, 3, norm, stride=coarse // fine, relu=True)
            for fine, coarse in pairwise(strides)
        )
        self.out_blocks = nn.ModuleList(
            conv_norm(channels, channels, 3, norm, relu=True) for _ in self.down_blocks
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pyramid = [block(x) for block, x in zip(self.layer_blocks, self.top_down(features), strict=True)]
        maps = [pyramid[0]]
        for down, out, x in zip(self.down_blocks, self.out_blocks, pyramid[1:], strict=True):
            total = x + down(maps[-1])
            maps.append(out(total / 2 if self.fuse == "average" else total))
        maps += self.extra_blocks(features[self.levels[-1]], maps[-1])
        return dict(zip(self.feature_info, maps, strict=True))
