"""`largest_batch_size`: how many images a training step can take on this machine."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from tasks.contracts import Batch, Model
from tasks.harness.guards import is_out_of_memory

Autocast = Callable[[], AbstractContextManager[object]]
MOST = 64
"""Larger batches are slower to learn from and hardly faster to compute."""
SHARE = 0.8
"""Of the free memory: some batches are larger than those that were tried."""
STATES = 4
"""Copies of each weight: itself, its gradient, and the optimiser's two."""
TEMPORARY = 1.5
"""Memory of a step on the CPU over what it keeps for the backward pass: gradients of maps, workspaces."""


def largest_batch_size(
    model: Model,
    batches: Callable[[int], Batch],
    *,
    num_images: int,
    device: torch.device,
    autocast: Autocast,
) -> int:
    """The largest power of two, at most `MOST` and `num_images`, whose training step fits into the memory of `device`.

    `model` is one to throw away: it moves, and its statistics change. `batches` gives a batch of so many images, the
    largest that come, and `autocast` the context of training, anew for each step. Raises ValueError where not even one
    image fits.
    """
    most = max(1, min(MOST, num_images))
    measure = _measured_on_gpu if device.type == "cuda" else _measured_on_cpu
    free = free_memory(device) * SHARE
    try:
        one, two = (measure(model, batches(n), device, autocast) for n in (1, 2))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"loader.batch_size=auto: not even two images fit into the memory of {device}"
        ) from error
    per_image = max(1, two - one)
    fixed = max(0, one - per_image)
    fits = int((free - fixed) / per_image)
    if fits < 1:
        raise ValueError(
            f"loader.batch_size=auto: one image needs {(fixed + per_image) / 2**30:.1f} GiB of memory and "
            f"{free / 2**30:.1f} GiB may be used; lower preprocessing.short_side and max_size"
        )
    size = 1 << (min(fits, most).bit_length() - 1)
    while device.type == "cuda" and size > 2:  # memory does not grow evenly, so the step itself decides
        try:
            if measure(model, batches(size), device, autocast) <= free:
                break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        size //= 2
    return size


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device, or in this machine or container."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_allocated(device)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and limit[0].strip().isdigit() and used:
        free = min(free, int(limit[0]) - int(used[0]))
    return free


def _measured_on_cpu(model: Model, batch: Batch, device: torch.device, autocast: Autocast) -> int:
    """Bytes of a step, from what the forward pass keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
        losses = model.losses(model.features(batch), batch)  # held, or its memory would be given out again
    del losses
    return int(_states(model) + TEMPORARY * sum(kept.values()))


def _measured_on_gpu(model: Model, batch: Batch, device: torch.device, autocast: Autocast) -> int:
    """Bytes of a step, from taking it; the optimiser's share, which it does not take, is added."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    batch = batch.to(device)
    model.to(device)
    with autocast():
        losses = model.losses(model.features(batch), batch)
        total = torch.stack(list(losses.values())).sum()
    torch.autograd.backward(total)
    model.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(device) + _states(model) // 2


def _states(model: Model) -> int:
    return STATES * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
