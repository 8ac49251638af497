"""Values of every rank of a distributed run, on every rank."""

from typing import TypeVar

import torch.distributed

Value = TypeVar("Value")


def gathered(value: Value) -> list[Value]:
    """The `value` of each rank, in order of rank; all ranks must call this together.

    Without a distributed run there is one rank. Values travel pickled: pass few large arrays.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
