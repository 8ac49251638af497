"""The semantic branch of Panoptic FPN: pyramid levels brought to one resolution, summed, and classified.

Panoptic Feature Pyramid Networks (Kirillov et al., 2019), section 3, figure 3.

Legend:
    finest  the pyramid level of the smallest stride, usually p2, a quarter of the image
    stage   3x3 convolution, group norm, ReLU and, but for the finest level, bilinear upsampling by 2
"""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from backbones import FeatureInfo
from backbones.fpn import conv_norm

_COARSEST_STRIDE = 32  # "starting from the deepest FPN level (at 1/32 scale)"; p6 is for proposals alone


class FPNHead(nn.Module):
    """Levels p2 … p5 to logits at the resolution of the finest."""

    class_layer = "classes"
    """The layer that has an output for each class."""

    def __init__(self, feature_info: Mapping[str, FeatureInfo], *, num_classes: int, channels: int):
        """`feature_info` is the pyramid's, of which levels past stride 32 are left out; each stage has `channels`, 128
        in the paper."""
        super().__init__()
        self.levels = tuple(feature_info)[:1] + tuple(
            level for level, info in list(feature_info.items())[1:] if info.stride <= _COARSEST_STRIDE
        )
        finest = feature_info[self.levels[0]].stride
        self.stages = nn.ModuleList()
        for level in self.levels:
            inputs, stride = feature_info[level]
            num_stages = max(1, round(math.log2(stride / finest)))
            self.stages.append(
                nn.ModuleList(
                    conv_norm(inputs if i == 0 else channels, channels, 3, "group", relu=True)
                    for i in range(num_stages)
                )
            )
        self.classes = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """(B, K, h, w) with the cells of the finest level. `sizes` of the images are not needed here."""
        height, width = features[self.levels[0]].shape[-2:]
        total = None
        for level, stages in zip(self.levels, self.stages, strict=True):
            x = features[level]
            assert isinstance(stages, nn.ModuleList)
            for left, stage in zip(range(len(stages) - 1, -1, -1), stages, strict=True):
                # Sizes were rounded up on the way down, so twice a level may be a cell more than the next.
                size = -(-height // 2**left), -(-width // 2**left)
                x = stage(x)
                if x.shape[-2:] != size:
                    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        assert total is not None
        return self.classes(total)
