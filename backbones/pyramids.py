"""A backbone and a pyramid on it, as one extractor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .checks import nearest
from .features import FeatureExtractor, FeatureInfo
from .fpn import FPN, Extra, Fuse
from .layers import Norm
from .pafpn import PAFPN
from .simple_pyramid import SimplePyramid
from .spec import plain, resolve

PYRAMIDS: dict[str, Callable[..., nn.Module]] = {
    "fpn": FPN,
    "pafpn": PAFPN,
    "simple": SimplePyramid,
}


class PyramidExtractor(FeatureExtractor):
    """Images to the maps p2 … of a pyramid on a backbone."""

    def __init__(self, backbone: FeatureExtractor, pyramid: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.fpn = pyramid  # torchvision's name, whichever pyramid it is
        self.in_channels = backbone.in_channels
        feature_info = pyramid.feature_info
        assert isinstance(feature_info, dict)
        self.feature_info: dict[str, FeatureInfo] = feature_info

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.fpn(self.backbone(images))
        if isinstance(self.fpn, SimplePyramid):  # doubling a size that was rounded up may overshoot
            height, width = images.shape[-2:]
            for level, info in self.feature_info.items():
                maps[level] = maps[level][:, :, : -(-height // info.stride), : -(-width // info.stride)]
        return maps


def usual_pyramid(feature_info: Mapping[str, FeatureInfo]) -> str:
    """The name of the pyramid for maps of these kinds: "simple" for the one map of a plain vision transformer."""
    return "simple" if [info.stride for info in feature_info.values()] == [16] else "fpn"


def as_simple(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`options` of another pyramid as those of the simple one, and which of them it has nothing of."""
    found: dict[str, Any] = {"name": "simple"}
    for option, value in options.items():
        if option == "levels" and value is not None:
            found[option] = [str(level).replace("c", "p") for level in value]
        elif option in ("channels", "levels") or (option, value) in (("extra", "pool"), ("extra", "none")):
            found[option] = value
    return found, [option for option in options if option not in found]


def create_pyramid(backbone: FeatureExtractor, name: str = "fpn", **options: Any) -> PyramidExtractor:
    """`backbone` with the pyramid called `name` on it, randomly initialised.

    Raises:
        ValueError: unknown pyramid or option; names the nearest known ones.
    """
    builder = _find_pyramid(name)
    options = resolve(name, builder, options)
    extractor = PyramidExtractor(backbone, builder(backbone.feature_info, **options))
    if backbone.described:
        extractor.spec = {"backbone": backbone.spec, "pyramid": {"name": name, **plain(options)}}
    return extractor


def _find_pyramid(name: object) -> Callable[..., nn.Module]:
    """The builder called `name`; ValueError with the nearest names if there is none."""
    if not isinstance(name, str) or name not in PYRAMIDS:
        raise ValueError(
            f"no pyramid is called {name!r}{nearest(str(name), PYRAMIDS)}; there are {', '.join(PYRAMIDS)}"
        )
    return PYRAMIDS[name]


def with_fpn(
    backbone: FeatureExtractor,
    *,
    channels: int = 256,
    levels: Sequence[str] | None = None,
    norm: Norm | None = None,
    extra: Extra = "pool",
    fuse: Fuse = "sum",
) -> PyramidExtractor:
    """`backbone` with a feature pyramid on it: maps p2 … p5 and a pooled p6. `FPN` explains the options."""
    return create_pyramid(
        backbone, "fpn", channels=channels, levels=levels, norm=norm, extra=extra, fuse=fuse
    )
