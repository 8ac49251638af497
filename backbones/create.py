"""Backbones by name: the one table of builders, and building from a name or from a description."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from . import cifar, timm_adapter, torchvision_adapter
from .checks import nearest
from .features import FeatureExtractor
from .pyramids import PYRAMIDS, create_pyramid
from .resnet import (
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
from .spec import default_options, plain, resolve
from .timm_adapter import TimmBackbone
from .torchvision_adapter import TorchvisionBackbone
from .vgg import vgg, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from .weights import WEIGHTS, load_pretrained

BUILDERS: dict[str, Callable[..., FeatureExtractor]] = {
    # of any depth or from elsewhere: these need options
    "resnet": resnet,
    "cifar_resnet": cifar.cifar_resnet,
    "vgg": vgg,
    "timm": TimmBackbone,
    "torchvision": TorchvisionBackbone,
    # residual
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnext50_32x4d": resnext50_32x4d,
    "resnext101_32x8d": resnext101_32x8d,
    "resnext101_64x4d": resnext101_64x4d,
    "wide_resnet50_2": wide_resnet50_2,
    "wide_resnet101_2": wide_resnet101_2,
    "resnet18d": resnet18d,
    "resnet34d": resnet34d,
    "resnet50d": resnet50d,
    "resnet101d": resnet101d,
    "resnet152d": resnet152d,
    "cifar_resnet20": cifar.cifar_resnet20,
    "cifar_resnet32": cifar.cifar_resnet32,
    "cifar_resnet44": cifar.cifar_resnet44,
    "cifar_resnet56": cifar.cifar_resnet56,
    "cifar_resnet110": cifar.cifar_resnet110,
    "cifar_resnet1202": cifar.cifar_resnet1202,
    # plain: the same stages without shortcuts
    "plain_resnet18": partial(resnet18, shortcut="none"),
    "plain_resnet34": partial(resnet34, shortcut="none"),
    "plain_resnet50": partial(resnet50, shortcut="none"),
    "plain_resnet101": partial(resnet101, shortcut="none"),
    "plain_resnet152": partial(resnet152, shortcut="none"),
    "plain_resnext50_32x4d": partial(resnext50_32x4d, shortcut="none"),
    "plain_resnext101_32x8d": partial(resnext101_32x8d, shortcut="none"),
    "plain_resnext101_64x4d": partial(resnext101_64x4d, shortcut="none"),
    "plain_wide_resnet50_2": partial(wide_resnet50_2, shortcut="none"),
    "plain_wide_resnet101_2": partial(wide_resnet101_2, shortcut="none"),
    "plain_resnet18d": partial(resnet18d, shortcut="none"),
    "plain_resnet34d": partial(resnet34d, shortcut="none"),
    "plain_resnet50d": partial(resnet50d, shortcut="none"),
    "plain_resnet101d": partial(resnet101d, shortcut="none"),
    "plain_resnet152d": partial(resnet152d, shortcut="none"),
    "plain_cifar_resnet20": partial(cifar.cifar_resnet20, shortcut="none"),
    "plain_cifar_resnet32": partial(cifar.cifar_resnet32, shortcut="none"),
    "plain_cifar_resnet44": partial(cifar.cifar_resnet44, shortcut="none"),
    "plain_cifar_resnet56": partial(cifar.cifar_resnet56, shortcut="none"),
    "plain_cifar_resnet110": partial(cifar.cifar_resnet110, shortcut="none"),
    "plain_cifar_resnet1202": partial(cifar.cifar_resnet1202, shortcut="none"),
    # plain from the start
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vgg11_bn": vgg11_bn,
    "vgg13_bn": vgg13_bn,
    "vgg16_bn": vgg16_bn,
    "vgg19_bn": vgg19_bn,
}
# with another value of these, the same weights compute something else
MEANING = ("shortcut", "downsample", "stride_in_1x1")


def available() -> list[str]:
    """Names of this package's own that `create` builds without further options; those of torchvision and timm are
    built as well."""
    return [
        name
        for name, builder in BUILDERS.items()
        if inspect.Parameter.empty not in default_options(builder).values()
    ]


def options(name: str) -> dict[str, Any]:
    """Options of the backbone or pyramid called `name`, with their defaults.

    ``inspect.Parameter.empty`` stands for one that must be given.

    Raises:
        ValueError: unknown name; names the nearest known ones.
    """
    if name in PYRAMIDS:
        return default_options(PYRAMIDS[name])
    return {**default_options(find_builder(name)), "pretrained": False}


def create(name: str, *, pretrained: bool | str = False, **options: Any) -> FeatureExtractor:
    """The backbone called `name`.

    Args:
        name: a key of `BUILDERS`; `available()` lists those that need no options.
        pretrained: True for the best published weights, a tag of `weights.WEIGHTS` ("IMAGENET1K_V1"), the path
            of a file, or a URL. Other layouts of names are mapped; a warning says what did not match.
        options: those of the builder: `ResNet`, `cifar_resnet`, `VGG`, `TimmBackbone`, `TorchvisionBackbone`;
            ``backbones.options(name)`` lists them with their defaults.

    Raises:
        ValueError: unknown name or option (names the nearest known ones), options that do not go together,
            weights that cannot be had or belong to another network.
    """
    builder = find_builder(name)
    _check_known(name, builder, options)
    resolved = resolve(name, builder, options)
    if pretrained is True or pretrained in WEIGHTS.get(name, {}):
        _check_meaning(name, builder, resolved)
    extractor = builder(**resolved)
    extractor.spec = {"name": name, **plain(resolved)}
    if pretrained:
        load_pretrained(extractor, name, pretrained)
    return extractor


def has_published_weights(name: str) -> bool:
    """Whether `create(name, pretrained=True)` has weights to load; asks no network."""
    if name in BUILDERS:
        return name in WEIGHTS
    return torchvision_adapter.has_weights(name) or timm_adapter.has_weights(name)


def expected_pixels(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, per channel on a scale of 0 … 1, of the pixels that the published weights of the
    backbone called `name` expect; ImageNet's where nobody says."""
    usual = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if name in WEIGHTS:
        best = list(WEIGHTS[name].values())[-1]
        return best.mean, best.std
    if name in BUILDERS or name in torchvision_adapter.names():
        return usual  # all of torchvision's
    return timm_adapter.expected_pixels(name) or usual


def build(spec: Mapping[str, Any]) -> FeatureExtractor:
    """The architecture that ``extractor.spec`` describes, with random weights: a ``pretrained`` in it is dropped."""
    if "backbone" not in spec and not isinstance(spec.get("name"), str):
        raise ValueError(
            "this description of a backbone has no name; give that of an extractor: extractor.spec"
        )
    if "backbone" in spec:
        backbone = build(spec["backbone"])
        pyramid = spec.get("pyramid")
        return backbone if pyramid is None else create_pyramid(backbone, **pyramid)
    return create(**{key: value for key, value in spec.items() if key != "pretrained"})


def find_builder(name: object) -> Callable[..., FeatureExtractor]:
    """The builder called `name`: ours, else torchvision's network of that name, else timm's, with or without a tag of
    its weights. ValueError with the nearest names if there is none."""
    if isinstance(name, str) and name in BUILDERS:
        return BUILDERS[name]
    if isinstance(name, str) and name in torchvision_adapter.names():
        return partial(TorchvisionBackbone, model=name)
    if isinstance(name, str) and timm_adapter.has_model(name):
        return partial(TimmBackbone, model=name)
    known = [*BUILDERS, *torchvision_adapter.names(), *timm_adapter.names()]
    hint = nearest(str(name), dict.fromkeys(known), first=BUILDERS)
    raise ValueError(
        f"no backbone is called {name!r}{hint}; backbones.available() lists ours, "
        "and the classifiers of torchvision and timm go by their names"
    )


def _check_known(name: str, builder: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """ValueError for an option that other networks have: it is no misspelling, whatever it resembles."""
    known = default_options(builder)
    for option in given.keys() - known.keys():
        owners = [other for other, of_other in BUILDERS.items() if option in default_options(of_other)]
        if owners:
            raise ValueError(
                f"{name} has no option {option!r}, which is for others ({', '.join(owners[:3])} …); it takes "
                f"{', '.join(known)}"
            )


def _check_meaning(name: str, builder: Callable[..., Any], resolved: Mapping[str, Any]) -> None:
    """ValueError for options with which the published weights of `name` would compute something else."""
    trained_with = default_options(builder)
    changed = [option for option in MEANING if resolved.get(option) != trained_with.get(option)]
    norm = resolved.get("norm")
    if norm == "group" or (norm is None) != (trained_with.get("norm") is None):
        changed.append("norm")
    if changed:
        option = changed[0]
        raise ValueError(
            f"{option}={resolved[option]!r} does not go with the published weights of {name}, which were trained "
            f"with {option}={trained_with[option]!r}; leave out {option} or pretrained"
        )
    if resolved.get("zero_init_residual"):
        warnings.warn("zero_init_residual has no effect: pretrained weights replace it", stacklevel=3)
