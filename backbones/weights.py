"""Published weights by network and tag: address, licence, accuracy, and the preprocessing they expect.

A download is verified before use (`download.fetch`). `SHA256` holds the digests that are known in full: each
is published alike in several independent repositories and begins with the eight hex digits at the end of the
file's name. Of the other files those eight digits are all that their publishers give, and all that is verified.
Addresses, accuracies and preprocessing are those of torchvision's metadata, and of timm's configurations and
its table of results (results/results-imagenet.csv).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from .adapter import AdaptedExtractor
from .checks import nearest
from .download import expected_digest, fetch, with_digest
from .features import FeatureExtractor
from .loading import LoadReport, load_weights, read_weights

TORCHVISION = "https://download.pytorch.org/models/"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"


@dataclass(frozen=True)
class Published:
    """One file of ImageNet-1k weights. Images are RGB."""

    url: str
    top1: float | None
    """Published top-1 accuracy on ImageNet's validation set, in percent; None without a classifier."""
    resize: int
    """Shorter side of the image after resizing, and the square `crop` from its centre, for that accuracy."""
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    licence: str = "BSD-3-Clause"

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """The hex digits that the file's SHA-256 begins with: all 64 of them where they are known, else 8."""
        return SHA256.get(self.file, expected_digest(self.file))


SHA256 = {
    "resnet18-f37072fd.pth": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "resnet34-b627a593.pth": "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "resnet50-0676ba61.pth": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "resnet50-11ad3fa6.pth": "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    "resnet101-63fe2227.pth": "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
    "resnet101-cd907fc2.pth": "cd907fc2a0de2292b2ba2b27d2216bc672d84632d1cf20058d01c0c03b5e020e",
    "resnet152-394f9c45.pth": "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58",
    "wide_resnet50_2-95faca4d.pth": "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8",
    "vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "vgg19-dcbb9e9d.pth": "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
}


def _v1(file: str, top1: float, resize: int = 256) -> Published:
    return Published(TORCHVISION + file, top1, resize)


_v2 = partial(_v1, resize=232)


def _timm(file: str, top1: float, crop: int, resize: int) -> Published:
    return Published(TIMM + file, top1, resize, crop, "bicubic", licence="Apache-2.0")


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
    "resnet18d": {"ra2_in1k": _timm("resnet18d_ra2-48a79e06.pth", 73.794, 288, 303)},
    "resnet34d": {"ra2_in1k": _timm("resnet34d_ra2-f8dcfcaf.pth", 78.436, 288, 303)},
    "resnet50d": {"ra2_in1k": _timm("resnet50d_ra2-464e36ba.pth", 81.356, 288, 303)},
    "resnet101d": {"ra2_in1k": _timm("resnet101d_ra2-2803ffab.pth", 83.016, 320, 320)},
    "resnet152d": {"ra2_in1k": _timm("resnet152d_ra2-5cac0439.pth", 83.684, 320, 320)},
}


def load_pretrained(extractor: FeatureExtractor, name: str, pretrained: bool | str) -> LoadReport:
    """Loads weights into the network that `create` calls `name`: True for its best published ones, a tag of
    them, the path of a file, or a URL."""
    if isinstance(extractor, AdaptedExtractor):
        return load_weights(extractor, extractor.published_weights(pretrained))
    urls = {tag: with_digest(entry.url, entry.sha256) for tag, entry in WEIGHTS.get(name, {}).items()}
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
