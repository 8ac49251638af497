"""Images to feature maps: ResNets and their relatives behind one contract, usable on their own."""

from .cifar import (
    cifar_resnet,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
    cifar_resnet1202,
)
from .create import available, build, create, expected_pixels, has_published_weights, options
from .features import FeatureExtractor, FeatureInfo
from .fpn import FPN
from .freezing import freeze
from .layers import FrozenBatchNorm2d
from .loading import LoadReport, load_weights
from .model_file import load_backbone
from .pafpn import PAFPN
from .pyramids import PyramidExtractor, create_pyramid, usual_pyramid, with_fpn
from .resnet import (
    ResNet,
    resnet,
    resnet18,
    resnet18d,
    resnet34,
    resnet34d,
    resnet50,
    resnet50d,
    resnet101,
    resnet101d,
    resnet152,
    resnet152d,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .simple_pyramid import SimplePyramid
from .spec import title
from .vgg import VGG, vgg, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from .weights import WEIGHTS, Published

__all__ = [
    "FPN",
    "PAFPN",
    "VGG",
    "WEIGHTS",
    "FeatureExtractor",
    "FeatureInfo",
    "FrozenBatchNorm2d",
    "LoadReport",
    "Published",
    "PyramidExtractor",
    "ResNet",
    "SimplePyramid",
    "available",
    "build",
    "cifar_resnet",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "cifar_resnet1202",
    "create",
    "create_pyramid",
    "expected_pixels",
    "freeze",
    "has_published_weights",
    "load_backbone",
    "load_weights",
    "options",
    "resnet",
    "resnet18",
    "resnet18d",
    "resnet34",
    "resnet34d",
    "resnet50",
    "resnet50d",
    "resnet101",
    "resnet101d",
    "resnet152",
    "resnet152d",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "title",
    "usual_pyramid",
    "vgg",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "with_fpn",
]
