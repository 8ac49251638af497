"""Which devices have kernels of their own for the arithmetic of detection."""

from types import ModuleType

import torch

from backbones.kernels import compiles_kernels


def kernels_for(device: torch.device) -> ModuleType | None:
    """The kernels for tensors on `device`, `triton_kernels.py`; None where there are none, or none that run."""
    if not compiles_kernels(device):
        return None
    from . import triton_kernels

    return triton_kernels
