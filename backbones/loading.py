"""Weights into a network, with a report of what matched; refuses what is plainly another network."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from .features import FeatureExtractor
from .key_layouts import to_our_keys, unwrap
from .untrusted import COMPILED, check_finite, check_tensors, load_data

COUNTER = "num_batches_tracked"  # batch norm has it, frozen norm and old files lack it; nothing depends on it
ENOUGH = 0.75  # ResNet-50 and -101 share 51 % of the larger one's tensors, -101 and -152 share 67 %


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor, by name."""

    matched: list[str]
    missing: list[str]
    """In the network but not in the weights; they keep their values."""
    left_over: list[str]
    """In the weights but not in the network, as a classifier's last layer is."""
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """In both, but of another shape: the network's and the weights'. The network's keep their values."""

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors match"]
        if self.missing:
            parts.append(f"{len(self.missing)} not in the weights ({_some(self.missing)})")
        if self.left_over:
            parts.append(f"{len(self.left_over)} left over ({_some(self.left_over)})")
        for key, (ours, theirs) in list(self.reshaped.items())[:3]:
            parts.append(f"{key} is {ours} here and {theirs} in the weights")
        if len(self.reshaped) > 3:
            parts.append(f"{len(self.reshaped) - 3} more of other shapes")
        return "; ".join(parts)

    def differences(self) -> str:
        """What does not match, with the first of it."""
        counts = f"{len(self.missing)} missing, {len(self.left_over)} left over, {len(self.reshaped)} of another shape"
        if self.missing or self.left_over:
            return f"{counts} (the first: {[*self.missing, *self.left_over][0]})"
        return counts + "".join(
            f" (the first: {key}, {ours} here and {theirs} in the weights)"
            for key, (ours, theirs) in sorted(self.reshaped.items())[:1]
        )


def compare_weights(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> LoadReport:
    """What of `theirs` fits `ours`; the counters of batch norm, from which nothing is computed, do not count."""
    ours, theirs = (
        {key: value for key, value in weights.items() if not key.endswith(COUNTER)}
        for weights in (ours, theirs)
    )
    common = [key for key in ours if key in theirs]
    return LoadReport(
        matched=[key for key in common if ours[key].shape == theirs[key].shape],
        missing=[key for key in ours if key not in theirs],
        left_over=[key for key in theirs if key not in ours],
        reshaped={
            key: (tuple(ours[key].shape), tuple(theirs[key].shape))
            for key in common
            if ours[key].shape != theirs[key].shape
        },
    )


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], problem: str, remedy: str) -> None:
    """Copies all of `weights`, under the names of `module` and nothing else, into it.

    Raises:
        ValueError: they are not just those of `module`, which is then unchanged; it says the `problem`, the
            differences and the `remedy`.
    """
    state = module.state_dict()
    report = compare_weights(state, weights)
    if report.missing or report.left_over or report.reshaped:
        raise ValueError(f"{problem}: {report.differences()}; {remedy}")
    module.load_state_dict({key: value for key, value in weights.items() if key in state}, strict=False)


def load_weights(extractor: FeatureExtractor, weights: Mapping[str, Tensor]) -> LoadReport:
    """Copies `weights` into `extractor`, in place, and says what matched. Foreign names are mapped to ours.

    The first convolution adapts to `in_channels`: with one channel it gets the sum over the colours, since a
    grey image is three equal colours; with others they repeat in turn, scaled to keep the magnitude.

    Raises:
        ValueError: less than three quarters of the network's tensors matched, or of those that the weights
            have for such a network; then nothing is loaded.
    """
    ours = {k: v for k, v in extractor.state_dict().items() if not k.endswith(COUNTER)}
    theirs = {k: v for k, v in to_our_keys(weights, ours).items() if not k.endswith(COUNTER)}
    # Offsets start at zero, where weights of plain convolutions compute what they always did.
    ours = {k: v for k, v in ours.items() if k in theirs or ".offsets." not in k}
    first = next((key for key, value in ours.items() if value.ndim == 4), None)
    if first in theirs and theirs[first].ndim == 4:
        theirs[first] = adapt_input(theirs[first], ours[first].shape[1])
    report = compare_weights(ours, theirs)
    # a head is expected to be left over, another stage of the same name is not
    roots = {_root(key) for key in ours}
    foreign = [key for key in report.left_over if _root(key) in roots]
    if len(report.matched) < ENOUGH * max(len(ours), len(report.matched) + len(foreign)):
        raise ValueError(
            f"these weights belong to another network ({report}); build the backbone that they were trained with"
        )
    if report.missing or report.reshaped or foreign:
        warnings.warn(f"weights match in part: {report}", stacklevel=3)
    extractor.load_state_dict({key: theirs[key] for key in report.matched}, strict=False)
    return report


def adapt_input(weight: Tensor, in_channels: int) -> Tensor:
    """The weight (O, C, h, w) of a first convolution for images of `in_channels` channels instead of C."""
    given = weight.shape[1]
    if in_channels == given or in_channels < 1:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-in_channels // given), 1, 1)[:, :in_channels]
    return repeated * (given / in_channels)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` or torch file, read as data alone.

    Raises:
        ValueError: nothing is there, it is cut short, or it holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there are no weights at {path}; give the path of a .pth or .safetensors file")
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else unwrap(load_data(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable .safetensors file ({error}); get it again") from None
    except ValueError as error:
        raise ValueError(f"{path} holds no weights that can be read as data alone ({error})") from None
    weights = {key.replace(COMPILED, ""): value for key, value in check_tensors(weights, path).items()}
    check_finite(weights, path)
    return weights


def _root(key: str) -> str:
    """The part of a network that `key` is in; an adapter's network lies one deeper."""
    return key.removeprefix("network.").partition(".")[0]


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
