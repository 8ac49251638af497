"""Where a training step's time goes: the share of each operator, ours beside torchvision's."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile

from .timing import Result
from .training import losses_of, steps

PRODUCTS = ("convolution", "addmm", "::mm", "bmm", "gemm")
"""Parts of the names of operators that multiply matrices, the work that no rearrangement spares."""


def shares(arguments: Namespace) -> Iterator[Result]:
    """A result for each size and batch: seconds of a step, percent of it in matrix products, the longest others."""
    for height, width in arguments.size:
        for num_images in arguments.batch:
            check, ours, theirs = losses_of(arguments, num_images, height, width)
            found = {
                name: measure(run, arguments.device)
                for name, run in steps(arguments, ours, theirs)[0].items()
            }
            setting = {"model": arguments.model, "size": f"{height}x{width}", "batch": num_images}
            yield Result("shares", setting, check, others=found)


def measure(step: Callable[[], None], device: str) -> dict[str, Any]:
    """The third step, as the first two ask the system for memory."""
    step()
    step()
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        step()
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    # Operators alone: a GPU's kernels are counted with those that start them.
    times = {e.key: getattr(e, kind) for e in profiler.key_averages() if "::" in e.key}
    total = sum(times.values())
    products = sum(time for name, time in times.items() if any(part in name for part in PRODUCTS))
    others = sorted((name for name in times if not any(p in name for p in PRODUCTS)), key=times.__getitem__)
    return {
        "seconds": round(total / 1e6, 3),
        "products_percent": round(100 * products / total, 1),
        "others_percent": {name: round(100 * times[name] / total, 1) for name in others[:-9:-1]},
    }
