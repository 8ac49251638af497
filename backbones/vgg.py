"""VGG networks: the plain stacks of 3x3 convolutions that residual networks are measured against.

Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan and Zisserman, 2015), table 1.
Parameter names are torchvision's (`features.0.weight` …), without the classifier.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from .checkpointing import run_checkpointed
from .checks import check_choice, check_counts, check_positive
from .features import FeatureExtractor, FeatureInfo
from .freezing import freeze
from .layers import NORMS, ConvNormSequential, Norm, make_norm
from .spec import describes_itself

WIDTHS = (64, 128, 256, 512, 512)
LEVELS = ("c2", "c3", "c4", "c5")


class VGG(FeatureExtractor):
    """Five stages of convolutions, each followed by a pooling of stride 2.

    c2, c3 and c4 are what the last three stages give before their pooling, the deepest maps of strides 4, 8
    and 16; c5 is the last pooling. Poolings round up, so odd sizes lose no pixels; torchvision's round down.

    Args:
        convolutions: convolutions in each of the five stages, (2, 2, 3, 3, 3) for VGG-16.
        norm: norm after each convolution, or None as in the paper.
        in_channels, norm_eps, frozen_stages, checkpoint_stages: as for `ResNet`. The stem is the first two
            stages, and the last stage is the one that gives c4.
    """

    @describes_itself("vgg")
    def __init__(
        self,
        *,
        convolutions: Sequence[int],
        norm: Norm | None = None,
        norm_eps: float = 1e-5,
        in_channels: int = 3,
        frozen_stages: int | None = None,
        checkpoint_stages: Sequence[int] = (),
    ):
        super().__init__()
        check_positive("in_channels", in_channels)
        check_choice("norm", norm, (None, *NORMS))
        check_counts("convolutions", convolutions)
        check_counts("checkpoint_stages", checkpoint_stages)
        if len(convolutions) != len(WIDTHS):
            raise ValueError(f"convolutions={list(convolutions)} must be five numbers, one for each stage")
        if any(stage not in (1, 2, 3) for stage in checkpoint_stages):
            raise ValueError(f"checkpoint_stages={list(checkpoint_stages)} must name stages 1 to 3")
        self.in_channels = in_channels
        self.checkpoint_stages = frozenset(checkpoint_stages)
        layers: list[nn.Module] = []
        ends: list[int] = []  # one past the last layer of each stage, its pooling left out
        channels = in_channels
        for count, width in zip(convolutions, WIDTHS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if norm is not None:
                    layers.append(make_norm(norm, width, norm_eps))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            ends.append(len(layers))
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        self.features = ConvNormSequential(*layers)
        self.feature_info = {
            level: FeatureInfo(width, 2**n)
            for level, width, n in zip(LEVELS, (*WIDTHS[2:], WIDTHS[-1]), (2, 3, 4, 5), strict=True)
        }
        # where each map ends: the pooling that opens a stage belongs to it, and c5 is the last pooling
        self.ends = (*ends[2:], len(layers))
        bounds = (0, ends[1] + 1, ends[2], ends[3], ends[4])
        self.stages = tuple(
            tuple(f"features.{index}" for index in range(start, end)) for start, end in pairwise(bounds)
        )
        for module in self.modules():  # as torchvision
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        freeze(self, frozen_stages)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.check_images(images)
        x, start = images, 0
        features: dict[str, Tensor] = {}
        for stage, (level, end) in enumerate(zip(self.feature_info, self.ends, strict=True), start=1):
            layers = self.features[start:end]
            x = run_checkpointed(layers, x) if stage in self.checkpoint_stages else layers(x)
            features[level], start = x, end
        return features


def vgg_bn(
    *,
    convolutions: Sequence[int],
    norm: Norm = "batch",
    norm_eps: float = 1e-5,
    in_channels: int = 3,
    frozen_stages: int | None = None,
    checkpoint_stages: Sequence[int] = (),
) -> VGG:
    """A `VGG` with norms, which the published ``vgg16_bn`` and its like have."""
    return VGG(
        convolutions=convolutions,
        norm=norm,
        norm_eps=norm_eps,
        in_channels=in_channels,
        frozen_stages=frozen_stages,
        checkpoint_stages=checkpoint_stages,
    )


vgg = VGG
vgg11 = partial(vgg, convolutions=(1, 1, 2, 2, 2))
vgg13 = partial(vgg, convolutions=(2, 2, 2, 2, 2))
vgg16 = partial(vgg, convolutions=(2, 2, 3, 3, 3))
vgg19 = partial(vgg, convolutions=(2, 2, 4, 4, 4))
vgg11_bn = partial(vgg_bn, convolutions=(1, 1, 2, 2, 2))
vgg13_bn = partial(vgg_bn, convolutions=(2, 2, 2, 2, 2))
vgg16_bn = partial(vgg_bn, convolutions=(2, 2, 3, 3, 3))
vgg19_bn = partial(vgg_bn, convolutions=(2, 2, 4, 4, 4))
