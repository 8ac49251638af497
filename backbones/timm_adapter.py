"""Any network of timm that gives feature maps, behind this package's contract. Needs the extra `timm`."""

from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import AdaptedExtractor
from .checks import check_positive, nearest
from .download import fetch
from .features import FeatureInfo
from .freezing import freeze
from .key_layouts import is_efficientnet_pytorch, to_our_keys
from .loading import read_weights
from .spec import describes_itself

RESERVED = (  # of timm.create_model, given here by other means: pretrained=, in_channels=, output_stride=
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only",
    "out_indices", "in_chans", "output_stride", "model_name",
)  # fmt: skip
Level = tuple[str, int, FeatureInfo]  # key, index of the map in timm's list, channels and stride


class TimmBackbone(AdaptedExtractor):
    """timm's network called `model`, as maps c2 … c5; channels and strides are read from it.

    A plain vision transformer gives its last block alone, as c4: put the pyramid "simple" on it.

    Args:
        model: timm's name, "convnext_tiny" or with a tag of its weights, "convnext_tiny.fb_in22k".
        in_channels: channels of the images; timm folds or repeats pretrained weights.
        output_stride: 8, 16 or 32, for the networks that timm can dilate.
        frozen_stages: see `freezing.freeze`; for networks whose stages follow one another.
        freeze_norms: keep batch norms at their statistics, scale and shift.
        model_options: further arguments of ``timm.create_model``, as ``{"drop_path_rate": 0.1}``.
    """

    @describes_itself("timm")
    def __init__(
        self,
        *,
        model: str,
        in_channels: int = 3,
        output_stride: int = 32,
        frozen_stages: int | None = None,
        freeze_norms: bool = False,
        model_options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_positive("in_channels", in_channels)
        self.in_channels = in_channels
        self.model = model
        options = dict(model_options or {})
        if clashes := [option for option in RESERVED if option in options]:
            raise ValueError(
                f"model_options must not hold {', '.join(clashes)}; that is what pretrained, in_channels and "
                "output_stride of backbones.create are for"
            )
        options["in_chans"] = in_channels
        if output_stride != 32:
            options["output_stride"] = output_stride
        levels, self.options = _probe(model, options)
        self.network = _timm().create_model(model, features_only=True, **self.options)
        self.channels_last = "NHWC" in str(getattr(self.network, "output_fmt", ""))
        self.feature_info = {key: info for key, _, info in levels}
        self.stages = _stages(self.network, [index for _, index, _ in levels])
        if freeze_norms:
            self.freeze_norms()
        freeze(self, frozen_stages)

    def maps(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else maps

    def published_weights(self, pretrained: bool | str) -> dict[str, Tensor]:
        timm = _timm()
        name, options = self.model, dict(self.options)
        if isinstance(pretrained, str) and not Path(pretrained).exists() and "://" not in pretrained:
            tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
            if pretrained not in tags:
                raise ValueError(
                    f"pretrained={pretrained!r} is neither a file nor a tag of {name}; tags: {', '.join(tags)}"
                )
            name = f"{name.partition('.')[0]}.{pretrained}"
            pretrained = True
        config = timm.get_pretrained_cfg(name)
        url = config.url if config is not None else None
        if isinstance(pretrained, str):
            path = str(fetch(pretrained)) if "://" in pretrained else pretrained
            weights = read_weights(path)
            if is_efficientnet_pytorch(weights):  # which timm does not know
                return to_our_keys(weights, self.state_dict())
            options["pretrained_cfg_overlay"] = {"file": path}
        elif url:  # through our own download: it verifies, resumes, and knows the mirror
            options["pretrained_cfg_overlay"] = {"file": str(fetch(url))}
        try:
            network = timm.create_model(name, pretrained=True, features_only=True, **options)
        except (RuntimeError, OSError, ValueError) as error:
            raise ValueError(
                f"timm could not load weights into {name} ({str(error).splitlines()[0]}); without a network, "
                "download them elsewhere and pass pretrained=<path of the file>"
            ) from error
        return {f"network.{key}": value for key, value in network.state_dict().items()}


def names() -> list[str]:
    """Timm's networks; none where it is not installed."""
    return [] if find_spec("timm") is None else _timm().list_models()


def has_model(name: str) -> bool:
    """Whether timm is installed and knows a network of that name, which may end in a tag of its weights."""
    return find_spec("timm") is not None and _timm().is_model(name)


def has_weights(model: str) -> bool:
    """Whether weights of timm's network of that name are published."""
    config = _timm().get_pretrained_cfg(model) if has_model(model) else None
    return config is not None and bool(config.has_weights)


def expected_pixels(model: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of the pixels that its weights expect; None where timm does not say."""
    config = _timm().get_pretrained_cfg(model) if has_model(model) else None
    return None if config is None else (tuple(config.mean), tuple(config.std))


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ValueError("backbone 'timm' needs the package timm; install it: pip install timm") from None
    return timm


def _probe(model: str, options: dict[str, Any]) -> tuple[list[Level], dict[str, Any]]:
    """Which maps to take, and the options with which timm builds a network of exactly these maps.

    Built on the meta device, which costs neither memory nor initialisation, where timm's code can be.
    """
    timm = _timm()
    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}{nearest(model, timm.list_models())}")

    def built(device: str, any_size: dict[str, bool]) -> Any:
        with torch.device(device):
            return timm.create_model(model, features_only=True, **options, **any_size)

    failure: TypeError | None = None
    # transformers are fixed to one image size unless told otherwise, each family in its own word
    for any_size in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            try:
                network = built("meta", any_size)
            except NotImplementedError:  # some of its versions work out the widths of a RegNet by tensors
                network = built("cpu", any_size)
        except TypeError as error:  # an option that this network does not have
            failure = error
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"timm gives no feature maps of {model!r} with the options {options}"
                + (f": {error}" if str(error) else "; it does not support one of them")
            ) from error
        else:  # some versions take any word of any network and heed only its own
            if not any_size or not any(getattr(m, "strict_img_size", False) for m in network.modules()):
                break
    else:
        raise ValueError(f"timm cannot build {model!r} with {options}: {failure}")
    strides, channels = network.feature_info.reduction(), network.feature_info.channels()
    if any(stride & (stride - 1) for stride in strides):
        raise ValueError(f"{model} has maps of strides {strides}; only powers of two fit a pyramid")
    dilated = "output_stride" in options
    chosen: dict[str, Level] = {}
    for index, (stride, width) in enumerate(zip(strides, channels, strict=True)):
        level = stride.bit_length() - 1
        if dilated:  # keeps its key at a lower stride; otherwise the deepest map of a stride wins
            while f"c{level}" in chosen:
                level += 1
        if level >= 2:
            chosen[f"c{level}"] = (f"c{level}", index, FeatureInfo(width, stride))
    if not chosen:
        raise ValueError(f"{model} has maps of strides {strides}, none of them 4 or more")
    indices = [network.feature_info.out_indices[index] for _, index, _ in chosen.values()]
    levels = [(key, position, info) for position, (key, _, info) in enumerate(chosen.values())]
    return levels, options | any_size | {"out_indices": indices}


def _stages(network: nn.Module, indices: list[int]) -> list[list[str]]:
    """Names of the modules of the stem and of each stage; empty where they do not follow one another."""
    feature_info: Any = network.feature_info
    ends: list[str] = [feature_info.module_name()[index] for index in indices]
    children = [name for name, _ in network.named_children()]
    units: list[str] = []
    for child in children:
        inside = [end for end in ends if end.startswith(f"{child}.")]
        blocks = [name for name, _ in network.get_submodule(child).named_children()] if inside else []
        units += [f"{child}.{block}" for block in blocks] or [child]
    positions: list[int] = []
    for end in ends:
        found = [n for n, unit in enumerate(units) if unit in (end, end.replace(".", "_"))]
        if not found:
            return []
        positions.append(found[0])
    bounds = [0, positions[0], *(position + 1 for position in positions)]
    return [[f"network.{unit}" for unit in units[start:end]] for start, end in pairwise(bounds)]
