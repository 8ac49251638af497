"""A model made ready to predict many times: what every call would do to its weights is done once."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from backbones.layers import fold_once
from tasks.contracts import Model

_CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def ready_model(model: Model, device: torch.device) -> Model:
    """A copy of `model` on `device` in evaluation mode, in which norms of fixed statistics are taken into the weights,
    and weights cast to the precision of autocast, at the first call alone. It predicts as `model`, to the bit."""
    copied = deepcopy(model)
    copied.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    fold_once(copied)
    for layer in copied.modules():
        if type(layer) in _CAST:
            _cast_at_first_call(layer)
    return copied


def _cast_at_first_call(layer: nn.Module) -> None:
    """Casts the weights of a layer as autocast would at every call. A convolution whose norm is taken into its weights
    is not called itself, and keeps its own."""

    def cast(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        device = given[0].device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            with torch.inference_mode(False):  # what is made inside it cannot be a parameter's
                for name, parameter in list(layer.named_parameters(recurse=False)):
                    setattr(layer, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
        handle.remove()

    handle = layer.register_forward_pre_hook(cast)
