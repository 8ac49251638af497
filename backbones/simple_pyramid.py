"""A pyramid from one map: what plain vision transformers need, whose blocks all work at one stride.

Exploring Plain Vision Transformer Backbones for Object Detection (Li et al., 2022), section 3 and figure 2c.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .checks import check_choice, check_positive
from .features import FeatureInfo
from .fpn import Extra, ExtraLevels, choose_levels


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of maps (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """The last map of an extractor, resampled to strides 4, 8, 16 and 32, each through two convolutions.

    Args:
        feature_info: the extractor's; its last map must have stride 16.
        channels: channels of each map given out.
        levels: keys of the maps given out; None is p2 to p5.
        extra: "pool" or "none", see `FPN`.
    """

    feature_info: dict[str, FeatureInfo]

    def __init__(
        self,
        feature_info: Mapping[str, FeatureInfo],
        *,
        channels: int = 256,
        levels: Sequence[str] | None = None,
        extra: Extra = "pool",
    ):
        super().__init__()
        check_positive("channels", channels)
        check_choice("extra", extra, ("none", "pool"))
        self.source, info = list(feature_info.items())[-1]
        if info.stride != 16:
            raise ValueError(
                f"the simple pyramid takes a last map of stride 16, but {self.source} has stride {info.stride}; "
                "use pyramid 'fpn' for a backbone with several strides"
            )
        all_info = {f"p{n}": FeatureInfo(channels, 2**n) for n in (2, 3, 4, 5)}
        self.levels = choose_levels(all_info, levels)
        self.blocks = nn.ModuleDict(
            {
                level: nn.Sequential(
                    *_resample(level, info.channels), *_project(level, info.channels, channels)
                )
                for level in self.levels
            }
        )
        self.extra_blocks = ExtraLevels(extra, self.levels, all_info, channels)
        self.feature_info = {level: all_info[level] for level in self.levels} | self.extra_blocks.feature_info

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = features[self.source]
        maps = [self.blocks[level](x) for level in self.levels]
        maps += self.extra_blocks(x, maps[-1])
        return dict(zip(self.feature_info, maps, strict=True))


def _resample(level: str, channels: int) -> list[nn.Module]:
    """From stride 16 to that of `level`; upsampling halves the channels each time."""
    if level == "p2":
        return [
            nn.ConvTranspose2d(channels, channels // 2, 2, 2),
            LayerNorm2d(channels // 2, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2),
        ]
    if level == "p3":
        return [nn.ConvTranspose2d(channels, channels // 2, 2, 2)]
    if level == "p4":
        return []
    return [nn.MaxPool2d(2, 2, ceil_mode=True)]


def _project(level: str, in_channels: int, channels: int) -> list[nn.Module]:
    inputs = {"p2": in_channels // 4, "p3": in_channels // 2}.get(level, in_channels)
    return [
        nn.Conv2d(inputs, channels, 1, bias=False),
        LayerNorm2d(channels, eps=1e-6),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels, eps=1e-6),
    ]
