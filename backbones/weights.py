"""Published weights by network and tag: address, licence, accuracy, and the preprocessing they expect.

The SHA-256 of each file begins with the eight hex digits at the end of its name; a download is verified
against them (`download.fetch`). Values are torchvision's and timm's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .adapter import AdaptedExtractor
from .checks import nearest
from .download import expected_digest, fetch
from .features import FeatureExtractor
from .loading import LoadReport, load_weights, read_weights

TORCHVISION = "https://download.pytorch.org/models/"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"


@dataclass(frozen=True)
class Published:
    """One file of ImageNet-1k weights. Images are RGB."""

    url: str
    top1: float | None
    """Published top-1 accuracy on ImageNet's validation set, in percent, at `crop`; None where not known."""
    resize: int
    """Shorter side after resizing, in evaluation."""
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    licence: str = "BSD-3-Clause"

    @property
    def sha256_prefix(self) -> str:
        """The first eight hex digits of the file's SHA-256."""
        return expected_digest(self.url.rpartition("/")[2])


def _v1(file: str, top1: float) -> Published:
    return Published(TORCHVISION + file, top1, resize=256)


def _v2(file: str, top1: float) -> Published:
    return Published(TORCHVISION + file, top1, resize=232)


def _timm(file: str, crop: int, resize: int) -> Published:
    return Published(TIMM + file, None, resize, crop, "bicubic", licence="Apache-2.0")


# the last tag of a network is what pretrained=True takes
WEIGHTS: dict[str, dict[str, Published]] = {
    "resnet18": {"IMAGENET1K_V1": _v1("resnet18-f37072fd.pth", 69.758)},
    "resnet34": {"IMAGENET1K_V1": _v1("resnet34-b627a593.pth", 73.314)},
    "resnet50": {
        "IMAGENET1K_V1": _v1("resnet50-0676ba61.pth", 76.130),
        "IMAGENET1K_V2": _v2("resnet50-11ad3fa6.pth", 80.858),
    },
    "resnet101": {
        "IMAGENET1K_V1": _v1("resnet101-63fe2227.pth", 77.374),
        "IMAGENET1K_V2": _v2("resnet101-cd907fc2.pth", 81.886),
    },
    "resnet152": {
        "IMAGENET1K_V1": _v1("resnet152-394f9c45.pth", 78.312),
        "IMAGENET1K_V2": _v2("resnet152-f82ba261.pth", 82.284),
    },
    "resnext50_32x4d": {
        "IMAGENET1K_V1": _v1("resnext50_32x4d-7cdf4587.pth", 77.618),
        "IMAGENET1K_V2": _v2("resnext50_32x4d-1a0047aa.pth", 81.198),
    },
    "resnext101_32x8d": {
        "IMAGENET1K_V1": _v1("resnext101_32x8d-8ba56ff5.pth", 79.312),
        "IMAGENET1K_V2": _v2("resnext101_32x8d-110c445d.pth", 82.834),
    },
    # torchvision calls it V1, but it is of the newer recipe
    "resnext101_64x4d": {"IMAGENET1K_V1": _v2("resnext101_64x4d-173b62eb.pth", 83.246)},
    "wide_resnet50_2": {
        "IMAGENET1K_V1": _v1("wide_resnet50_2-95faca4d.pth", 78.468),
        "IMAGENET1K_V2": _v2("wide_resnet50_2-9ba9bcbe.pth", 81.602),
    },
    "wide_resnet101_2": {
        "IMAGENET1K_V1": _v1("wide_resnet101_2-32ee1156.pth", 78.848),
        "IMAGENET1K_V2": _v2("wide_resnet101_2-d733dc28.pth", 82.510),
    },
    "vgg11": {"IMAGENET1K_V1": _v1("vgg11-8a719046.pth", 69.020)},
    "vgg11_bn": {"IMAGENET1K_V1": _v1("vgg11_bn-6002323d.pth", 70.370)},
    "vgg13": {"IMAGENET1K_V1": _v1("vgg13-19584684.pth", 69.928)},
    "vgg13_bn": {"IMAGENET1K_V1": _v1("vgg13_bn-abd245e5.pth", 71.586)},
    "vgg16": {
        "IMAGENET1K_FEATURES": Published(  # the paper's own, by way of SSD; pixels 0 … 255 minus a mean
            TORCHVISION + "vgg16_features-amdegroot-88682ab5.pth",
            None,
            resize=256,
            mean=(0.48235, 0.45882, 0.40784),
            std=(1 / 255, 1 / 255, 1 / 255),
            licence="CC-BY-4.0",
        ),
        "IMAGENET1K_V1": _v1("vgg16-397923af.pth", 71.592),
    },
    "vgg16_bn": {"IMAGENET1K_V1": _v1("vgg16_bn-6c64b313.pth", 73.360)},
    "vgg19": {"IMAGENET1K_V1": _v1("vgg19-dcbb9e9d.pth", 72.376)},
    "vgg19_bn": {"IMAGENET1K_V1": _v1("vgg19_bn-c79401a0.pth", 74.218)},
    "resnet18d": {"ra2_in1k": _timm("resnet18d_ra2-48a79e06.pth", 224, 256)},
    "resnet34d": {"ra2_in1k": _timm("resnet34d_ra2-f8dcfcaf.pth", 224, 256)},
    "resnet50d": {"ra2_in1k": _timm("resnet50d_ra2-464e36ba.pth", 224, 256)},
    "resnet101d": {"ra2_in1k": _timm("resnet101d_ra2-2803ffab.pth", 256, 269)},
    "resnet152d": {"ra2_in1k": _timm("resnet152d_ra2-5cac0439.pth", 256, 269)},
}


def load_pretrained(extractor: FeatureExtractor, name: str, pretrained: bool | str) -> LoadReport:
    """Loads weights into the network that `create` calls `name`: True for its best published ones, a tag of
    them, the path of a file, or a URL."""
    if isinstance(extractor, AdaptedExtractor):
        return load_weights(extractor, extractor.published_weights(pretrained))
    urls = {tag: entry.url for tag, entry in WEIGHTS.get(name, {}).items()}
    return load_weights(extractor, published_state(name, urls, pretrained))


def published_state(name: str, urls: Mapping[str, str], pretrained: bool | str) -> dict[str, Tensor]:
    """The state dict that `pretrained` means, with `urls` the published ones by tag."""
    if isinstance(pretrained, str) and pretrained not in urls:
        if "://" in pretrained:
            return read_weights(fetch(pretrained))
        if Path(pretrained).exists() or Path(pretrained).suffix in (".pth", ".pt", ".safetensors", ".ckpt"):
            return read_weights(pretrained)
    if not urls:
        raise ValueError(
            f"no weights are published for {name}; pass pretrained=<path or URL of a file>. Networks with "
            f"weights: {', '.join(WEIGHTS)}"
        )
    tag = pretrained if isinstance(pretrained, str) else list(urls)[-1]
    if tag not in urls:
        raise ValueError(
            f"pretrained={tag!r} is neither a file nor weights of {name}{nearest(tag, urls)}; "
            f"there are {', '.join(urls)}"
        )
    return read_weights(fetch(urls[tag]))
