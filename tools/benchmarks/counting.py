"""Counts that no busy machine disturbs: synchronisations, operator calls and bytes saved for the backward pass."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tasks.detection import focal_loss, matching, suppression

from . import plain_kernels
from .pairs import compare_losses, detector_pair, make_batch, our_loss, their_loss, to_images, to_targets
from .timing import Result, in_precision

_ANSWERS = {  # operators that make the host wait for a number or a shape
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "torchvision::nms",
}


def counts(arguments: Namespace) -> Iterator[Result]:
    """A result for each batch and precision: of both networks, in the way they work on a GPU."""
    height, width = arguments.size[0]
    for num_images in arguments.batch:
        batch = make_batch(num_images, height, width, arguments.instances, masks="mask" in arguments.model)
        ours, theirs = detector_pair(arguments.model, batch)
        check = compare_losses(ours, theirs, batch)
        ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        theirs.to(memory_format=torch.channels_last)
        images, targets = to_images(batch), to_targets(batch, theirs)
        for precision in arguments.precision:
            found = {
                "ours": count(in_precision(precision, "cpu", our_loss, ours, batch)),
                "torchvision": count(in_precision(precision, "cpu", their_loss, theirs, images, targets)),
            }
            for numbers in found.values():
                numbers["saved_bytes_an_image"] = numbers.pop("saved_bytes") // num_images
            setting = {"model": arguments.model, "batch": num_images, "precision": precision}
            yield Result("counts", setting, check, others=found)


def count(losses: Callable[[], Tensor]) -> dict[str, Any]:
    """Synchronisations of a forward and backward pass (in all and by line), operator calls of the forward
    pass, bytes that it saves."""
    with as_on_a_gpu():
        losses().backward()  # what is made once and kept is no part of a step
        with saved_bytes() as saved:
            losses()
        with OperatorCalls() as calls:
            losses()
        with Synchronisations() as waits, waits.operators:
            losses().backward()
    return {
        "syncs": sum(waits.places.values()),
        "forward_calls": sum(calls.names.values()),
        "saved_bytes": sum(saved.values()),
        "sync_places": dict(waits.places.most_common()),
    }


class _Kernels:
    """Our kernels' equivalents, each a launch that neither waits nor shows its parts."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def launch(*arguments: Any, **options: Any) -> Any:
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                return getattr(plain_kernels, name)(*arguments, **options)

        return launch


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Takes the branches that a GPU takes, ours and torchvision's."""
    ours = (suppression, matching, focal_loss)
    with (
        ExitStack() as kernels,
        mock.patch.object(matching, "_BLOCK_CPU", matching._BLOCK_GPU),
        mock.patch("torchvision.ops.boxes._batched_nms_vanilla", _torchvision_on_a_gpu),
        mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor),
    ):
        for module in ours:
            kernels.enter_context(mock.patch.object(module, "kernels_for", return_value=_Kernels()))
        yield


def _torchvision_on_a_gpu(*arguments: Any) -> Tensor:
    from torchvision.ops import boxes

    return boxes._batched_nms_coordinate_trick(*arguments)


class OperatorCalls(TorchDispatchMode):
    """Counts operators by name as they reach a device: on a GPU, launches."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[str(function)] += 1
        return function(*args, **(kwargs or {}))


class Synchronisations(TorchFunctionMode):
    """Counts, by line, the calls that make the host wait for a GPU: answers, and copies that are not
    asynchronous. Enter `operators` with it. Works on a CPU, where nothing waits."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self.operators = _Answers(self.places)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        copies = function in (Tensor.tolist, Tensor.cpu, Tensor.cuda)
        if function is Tensor.to and not kwargs.get("non_blocking"):
            copies = any(isinstance(value, str | torch.device) for value in (*args[1:], *kwargs.values()))
        if function in (torch.tensor, torch.as_tensor):
            copies = kwargs.get("device") is not None
        if copies:
            self.places[_line()] += 1
        return function(*args, **kwargs)


class _Answers(TorchDispatchMode):
    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.name().split(".")[0]
        waits = name in _ANSWERS
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            chosen = any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
            waits = chosen and (name == "aten::index" or args[2].numel() != 1)  # else it is masked_fill
        if function is torch.ops.aten.repeat_interleave.Tensor:
            waits = kwargs.get("output_size") is None
        if waits:
            self.places[_line()] += 1
        return function(*args, **kwargs)


def _line() -> str:
    """The innermost line of Python outside torch and this file."""
    import sys

    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__ and "/torch/" not in name:
            return f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@contextmanager
def saved_bytes() -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps for the backward pass, parameters left out."""
    saved: dict[int, int] = {}
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # or its place could be taken by another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved
