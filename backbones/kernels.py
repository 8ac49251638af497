"""Whether Triton's kernels can be compiled for a device; where not, plain operators do the same."""

import logging
from functools import lru_cache

import torch

_log = logging.getLogger(__name__)


@lru_cache
def compiles_kernels(device: torch.device) -> bool:
    """True on a CUDA device where a kernel of Triton, which comes with torch there, was compiled and has run."""
    if device.type != "cuda":
        return False
    try:
        from .triton_group_norm import smallest_kernel

        smallest_kernel(device)
    except Exception as error:  # no C compiler, a device that Triton does not know, whatever a compiler says
        _log.warning("No kernels of our own on %s, which is slower: %s", device, error)
        return False
    return True
