"""The device that computes: its choice, the precision that suits it, autocast, and memory kept between steps."""

import contextlib
import ctypes
import sys
import time
from contextlib import AbstractContextManager
from functools import lru_cache

import torch

_MEANT = {"fp16": "16-mixed", "16": "16-mixed", "bf16": "bf16-mixed", "fp32": "32-true", "32": "32-true"}
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Lightning's name for `precision`; `auto` is bf16 where the device computes faster in it, else float32.

    Raises:
        ValueError: Lightning knows no such precision.
    """
    if precision not in PRECISIONS:
        meant = _MEANT.get(str(precision))
        hint = f"; for {precision} give {meant}" if meant else ""
        raise ValueError(f"precision={precision} is unknown; wanted one of {', '.join(PRECISIONS)}{hint}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 or V100 emulates it, slowly
    else:
        fast = device.type == "cpu" and _cpu_is_faster_in_bf16()
    return "bf16-mixed" if fast else "32-true"


@lru_cache(maxsize=1)
def _cpu_is_faster_in_bf16() -> bool:
    """Measures it, in about 50 ms: some CPUs that have bf16 instructions take twice as long with them as
    in float32, others a quarter, and no flag that torch reads tells one from the other."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(9):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which to run a network outside of a Trainer, for the same numbers as inside."""
    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = dtypes.get(resolve_precision(precision, device))
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def resolve_device(accelerator: str = "auto") -> torch.device:
    """`auto` is the first CUDA device when there is one, else the CPU; any other name is torch's own.

    Raises:
        ValueError: there is no such device on this machine.
    """
    if accelerator != "auto":
        try:
            device = torch.device(accelerator)
        except (RuntimeError, TypeError):
            raise ValueError(
                f"device={accelerator!r} is not a device; give cpu, cuda, cuda:1, … or auto"
            ) from None
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and (device.index or 0) >= count:
            seen = f"{count} GPU{'s' if count != 1 else ''}" if count else "no GPU"
            raise ValueError(f"device={accelerator}: torch sees {seen} on this machine; give cpu or auto")
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h


def keep_freed_memory(device: torch.device) -> None:
    """Memory that one step on a CPU frees serves the next, instead of going back to the system.

    glibc returns every block above 32 MiB, and Linux then maps and clears it anew page by page, which can take
    longer than computing what goes into it. Nothing is done with other C libraries, or for a GPU.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20)):
            mallopt(option, value)
