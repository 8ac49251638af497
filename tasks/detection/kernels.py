"""Which devices have kernels of their own for the arithmetic of detection."""

import logging
from functools import lru_cache
from types import ModuleType

import torch

_log = logging.getLogger(__name__)


@lru_cache
def kernels_for(device: torch.device) -> ModuleType | None:
    """The kernels for tensors on `device`, `triton_kernels.py`; None where there are none, or none that run."""
    if device.type != "cuda":
        return None
    try:
        from . import triton_kernels

        # Compiles and runs: Triton may be there and lack a C compiler, or not know the device.
        triton_kernels.suppress_sorted(
            torch.zeros(1, 4, device=device), torch.arange(2, device=device), 0.5
        ).sum()
    except Exception as error:  # whatever a compiler says; the plain operators do the same
        _log.warning("Detection runs without its CUDA kernels, more slowly: %s", error)
        return None
    return triton_kernels
