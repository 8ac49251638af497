"""What `precision=auto` means on a device, and the autocast that goes with a precision."""

import contextlib
from contextlib import AbstractContextManager

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """Lightning's name for `precision`; `auto` is bf16 where the device computes in it, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        # Without AVX512-BF16 a CPU emulates bf16 and loses time by it. Not public in torch: older
        # versions may lack it, and then float32 is always right.
        fast = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if fast else "32-true"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which to run a network outside of a Trainer, for the same numbers as inside."""
    if resolve_precision(precision, device) == "bf16-mixed":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def resolve_device(accelerator: str = "auto") -> torch.device:
    """`auto` is the first CUDA device when there is one, else the CPU; any other name is torch's own."""
    if accelerator != "auto":
        return torch.device(accelerator)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
