"""Networks of torchvision by name: DenseNet, EfficientNet, ConvNeXt, RegNet, Swin, MobileNet and others.

Works for every network that is a chain of modules; its ResNets and VGGs are this package's own.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .adapter import AdaptedExtractor
from .checks import check_positive, nearest
from .features import FeatureInfo
from .freezing import freeze
from .spec import describes_itself
from .weights import published_state

PROBE = 128  # side of the image that strides are measured with
CONTAINERS = ("features", "trunk_output", "layers")  # children whose own children are links of the chain
HEADS = ("avgpool", "classifier", "fc", "head", "heads", "norm", "permute", "flatten", "dropout")


class TorchvisionBackbone(AdaptedExtractor):
    """torchvision's network called `model`, as maps c2 … c5; channels and strides are measured on it.

    Args:
        model: torchvision's name, as "efficientnet_b0".
        in_channels: channels of the images; only 3 unless the first layer is a convolution.
        frozen_stages: see `freezing.freeze`.
        freeze_norms: keep batch norms at their statistics, scale and shift.
    """

    @describes_itself("torchvision")
    def __init__(
        self,
        *,
        model: str,
        in_channels: int = 3,
        frozen_stages: int | None = None,
        freeze_norms: bool = False,
    ):
        super().__init__()
        check_positive("in_channels", in_channels)
        self.in_channels = in_channels
        self.model = model
        self.network = _network(model)
        self.links, self.ends, self.feature_info = _probe(self.network, model)
        self.links = self.links[: self.ends[-1] + 1]
        _keep_only(self.network, self.links)  # so that no parameter is left without a gradient
        if in_channels != 3:
            _change_input(self.network, in_channels, model)
        bounds = [0, self.ends[0], *(end + 1 for end in self.ends)]
        self.stages = [
            [f"network.{link}" for link in self.links[start:end]] for start, end in pairwise(bounds)
        ]
        if freeze_norms:
            self.freeze_norms()
        freeze(self, frozen_stages)

    def maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        x = images
        for index, link in enumerate(self.links):
            x = self.network.get_submodule(link)(x)
            if index in self.ends:
                info = list(self.feature_info.values())[len(maps)]
                maps.append(x if x.shape[1] == info.channels else x.permute(0, 3, 1, 2))  # Swin is NHWC
        return maps

    def published_weights(self, pretrained: bool | str) -> dict[str, Tensor]:
        entries = _models().get_model_weights(self.model)
        best = entries["DEFAULT"]  # not always the last one; pretrained=True takes the last of the table
        table = {entry.name: entry.url for entry in sorted(entries, key=lambda entry: entry is best)}
        state = published_state(self.model, table, pretrained)
        return {f"network.{key}": value for key, value in state.items()}


def names() -> list[str]:
    """Torchvision's classifiers."""
    return _models().list_models(module=_models())


def has_weights(model: str) -> bool:
    """Whether torchvision publishes weights of its classifier of that name."""
    return model in names() and len(_models().get_model_weights(model)) > 0


def _models() -> Any:
    from torchvision import models  # pyright: ignore[reportMissingTypeStubs]

    return models


def _network(model: str) -> nn.Module:
    models = _models()
    if model not in names():
        raise ValueError(f"torchvision has no classification model {model!r}{nearest(model, names())}")
    # works out its widths with tensors, which have no values on the meta device
    if model.startswith("regnet"):
        with _ValuesOnCpu():
            return models.get_model(model, weights=None)
    if model in ("googlenet", "inception_v3"):  # torchvision warns of their slow default
        return models.get_model(model, weights=None, init_weights=False)
    return models.get_model(model, weights=None)


class _ValuesOnCpu(TorchFunctionMode):
    """Tensors that are made of values, unlike parameters, stay on the CPU whatever the default device is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@torch.no_grad()
def _probe(network: nn.Module, model: str) -> tuple[list[str], list[int], dict[str, FeatureInfo]]:
    """The chain of modules, the positions in it where maps end, and what those maps are."""
    was_training = network.training
    network.eval()  # keeps batch norms as they are
    x = torch.zeros(1, 3, PROBE, PROBE, device=next(network.parameters()).device)
    links: list[str] = []
    for name, child in network.named_children():
        if name in CONTAINERS:
            links += [f"{name}.{inner}" for inner, _ in child.named_children()]
        elif name not in HEADS and not name.startswith("aux"):
            links.append(name)
    ends: dict[int, tuple[int, FeatureInfo]] = {}  # by stride: the last map of a stride wins
    for index, link in enumerate(links):
        try:
            x = network.get_submodule(link)(x)
            if x.ndim != 4:
                break
            channels, side = (
                (x.shape[1], x.shape[2]) if x.shape[2] == x.shape[3] else (x.shape[3], x.shape[1])
            )
            stride = PROBE // side
            if side * stride != PROBE or stride & (stride - 1):
                break
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
            break
        ends[stride] = (index, FeatureInfo(channels, stride))
    else:
        network.train(was_training)
        ends = {stride: end for stride, end in ends.items() if stride >= 4}
        if ends:
            info = {f"c{stride.bit_length() - 1}": end[1] for stride, end in ends.items()}
            return links, [index for index, _ in ends.values()], info
    raise ValueError(
        f"torchvision's {model} is no chain of modules with strides that are powers of two; look for the "
        "network in timm: backbones.create('timm', model=…)"
    )


def _keep_only(network: nn.Module, links: list[str]) -> None:
    """Deletes the modules that are not in the chain."""
    containers = {link.partition(".")[0] for link in links if "." in link}
    for name, child in list(network.named_children()):
        if name not in containers and name not in links:
            delattr(network, name)
        for inner in [inner for inner, _ in child.named_children()] if name in containers else []:
            if f"{name}.{inner}" not in links:
                delattr(child, inner)


def _change_input(network: nn.Module, in_channels: int, model: str) -> None:
    """Replaces the first convolution by one for `in_channels` channels."""
    for name, module in cast(Iterator[tuple[str, nn.Module]], network.named_modules()):
        if isinstance(module, nn.Conv2d):
            parent, _, child = name.rpartition(".")
            conv = nn.Conv2d(
                in_channels,
                module.out_channels,
                (module.kernel_size[0], module.kernel_size[1]),
                (module.stride[0], module.stride[1]),
                (int(module.padding[0]), int(module.padding[1])),
                bias=module.bias is not None,
            )
            setattr(network.get_submodule(parent), child, conv)
            return
    raise ValueError(f"in_channels={in_channels}: torchvision's {model} has no convolution to change")
