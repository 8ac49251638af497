"""Values of every rank of a distributed run, on every rank. Without a distributed run there is one rank."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

Value = TypeVar("Value")


def all_gather_objects(value: Value) -> list[Value]:
    """The `value` of each rank, in order of rank; all ranks must call this together.

    Values travel pickled: pass few large arrays.
    """
    if not _several_ranks():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def largest(values: Sequence[int], device: torch.device) -> list[int]:
    """The largest of all ranks at each place of `values`, by way of `device`; all ranks must call this together."""
    if not _several_ranks():
        return list(values)
    found = torch.tensor(values, device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return [int(value) for value in found]


def loss_normalizer(count: Tensor, least: float = 1.0) -> Tensor:
    """What each rank divides a sum of losses by: how many there are, at least `least` over all ranks, for each rank.

    The mean of the ranks' gradients is then the gradient of one rank that has all their images. Where gradients
    are computed all ranks must call this together; elsewhere (validation) each counts for itself.
    """
    if not (torch.is_grad_enabled() and _several_ranks()):
        return count.clamp(min=least)
    total = count.to(torch.float32, copy=True)
    torch.distributed.all_reduce(total)
    return total.clamp(min=least) / torch.distributed.get_world_size()


def _several_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
