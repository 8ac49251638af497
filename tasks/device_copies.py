"""Copies between host and device: to the device without a wait for it, from it with one for all."""

from typing import Any

import torch
from torch import Tensor

from tasks.uncompiled import uncompiled


def fetch(*tensors: Tensor) -> list[Tensor]:
    """The tensors on the CPU, detached. However many there are, the device is waited for once."""
    copies = [tensor.detach().to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return copies


def to_list(tensor: Tensor) -> list[Any]:
    """The numbers of `tensor`, nested as its dimensions are. Waits for its device."""
    return tensor.tolist()  # pyright: ignore[reportUnknownMemberType]


@uncompiled
def send(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor of `values` (numbers, lists of them, an array, or a tensor on the CPU) on `device`.

    A GPU copies it from page-locked memory: `torch.tensor(…, device="cuda")` would wait for all work queued there.
    """
    tensor = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
