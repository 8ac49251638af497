"""Values of every rank of a distributed run, on every rank. Without a distributed run there is one rank."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

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


class LossSum(NamedTuple):
    """A loss that is still to be divided."""

    total: Tensor
    """Scalar: the sum over samples, objects or cells of this rank."""
    number: Tensor
    """Scalar: how many they are."""
    least: float = 1.0
    """What is divided by where all ranks have fewer."""


def normalized(sums: Mapping[str, LossSum]) -> dict[str, Tensor]:
    """The losses of a step, each divided as `loss_normalizer` says: all ranks exchange their counts once."""
    divisors = _divisors([loss.number for loss in sums.values()], [loss.least for loss in sums.values()])
    return {name: loss.total / divisor for (name, loss), divisor in zip(sums.items(), divisors, strict=True)}


def loss_normalizer(count: Tensor, least: float = 1.0) -> Tensor:
    """What each rank divides a sum of losses by: how many there are, at least `least` over all ranks, for each rank.

    The mean of the ranks' gradients is then the gradient of one rank that has all their images. Where gradients
    are computed all ranks must call this together; elsewhere (validation) each counts for itself.
    """
    return _divisors([count], [least])[0]


def _divisors(counts: list[Tensor], least: list[float]) -> list[Tensor]:
    ranks = 1
    if torch.is_grad_enabled() and _several_ranks():
        total = torch.stack([count.to(torch.float32) for count in counts])
        torch.distributed.all_reduce(total)
        counts, ranks = list(total.unbind()), torch.distributed.get_world_size()
    clamped = [count.clamp(min=low) for count, low in zip(counts, least, strict=True)]
    return [count / ranks for count in clamped] if ranks > 1 else clamped


def _several_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
