"""What stops a training that has gone wrong, with what there is to know: losses and gradients that are no numbers,
memory."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from tasks.contracts import Batch
from tasks.device_copies import to_list

if TYPE_CHECKING:
    from tasks.harness.settings import TrainSettings

_LOG = logging.getLogger("vertebra")
OnNonfinite = Literal["stop", "skip"]
MOST_SAVED = 3
"""Batches that `skip` saves; a training that has diverged would fill the disk."""


class NonfiniteLoss(ValueError):
    """A loss or a gradient is nan or infinite."""


class LossGuard:
    """Looks at the losses of every batch before the optimiser uses their gradients, and at the norm of these.

    The losses are copied to the CPU while the device goes on to the backward pass, and read when that has been
    queued: the check waits for the forward pass alone, while the device has work. The norm of the gradients is
    looked at before the optimiser uses them where that waits for nothing, on a CPU, and else with the losses of the
    next step, or before a checkpoint is written.
    """

    def __init__(
        self, folder: Path | None, on_nonfinite: str = "stop", say: Callable[[str], None] = _LOG.warning
    ) -> None:
        """`folder` is where a bad batch is saved, `say` gets what is skipped. `skip` leaves out the step, for which
        it waits for the gradients once a step."""
        if on_nonfinite not in get_args(OnNonfinite):
            raise ValueError(f"on_nonfinite={on_nonfinite} must be one of {', '.join(get_args(OnNonfinite))}")
        self.folder = folder
        self.on_nonfinite = on_nonfinite
        self.say = say
        self._waiting: list[tuple[list[str], Tensor, torch.cuda.Event | None, Batch]] = []
        self._num_saved = 0
        self._images: list[int] = []  # of the step that is checked
        self._norm: tuple[int, Tensor, torch.cuda.Event, list[int]] | None = None
        self.latest: tuple[list[str], Tensor] = ([], torch.empty(0))
        """Names and losses of the last batch watched, on its device."""

    def watch(self, names: list[str], values: Tensor, batch: Batch) -> None:
        """Remembers the losses of a batch, detached, for `check`."""
        self.latest = names, values
        self._waiting.append((names, *_on_its_way(values.float()), batch))

    def check(self, step: int, losses_of: Callable[[Batch], dict[str, Tensor]]) -> bool:
        """Whether the optimiser may take step `step`, from all that was watched since the last one.

        `losses_of` gives the losses of a batch once more: it tells the images that are at fault.

        Raises:
            NonfiniteLoss: it may not, and `on_nonfinite` is `stop`.
        """
        waiting, self._waiting = self._waiting, []
        self._images = [image for *_, batch in waiting for image in to_list(batch.image_ids)]
        for names, values, event, batch in waiting:
            if event is not None:
                event.synchronize()
            self.check_last_norm(waited=True)
            if not math.isfinite(float(values.sum())):
                self._report(step, dict(zip(names, to_list(values), strict=True)), batch, losses_of)
                return False
        return True

    def check_norm(self, step: int, norm: Tensor) -> bool:
        """Whether the optimiser may use gradients of this `norm`, a scalar, at step `step`.

        Raises:
            NonfiniteLoss: it may not, and `on_nonfinite` is `stop`.
        """
        if norm.is_cuda and self.on_nonfinite == "stop":
            value, event = _on_its_way(norm)
            assert event is not None
            self._norm = step, value, event, self._images
        elif not math.isfinite(float(norm)):
            if self.on_nonfinite == "stop":
                raise NonfiniteLoss(_bad_gradient(step, norm, self._images))
            self.say(f"step {step} skipped: a gradient is not finite though the losses here are")
            return False
        return True

    def check_last_norm(self, *, waited: bool = False) -> None:
        """Raises `NonfiniteLoss` if gradients were not finite that the optimiser has been given since; `waited` says
        that the device is known to be past them."""
        pending, self._norm = self._norm, None
        if pending is None:
            return
        step, norm, event, images = pending
        if not waited:
            event.synchronize()
        if not math.isfinite(float(norm)):
            raise NonfiniteLoss(_bad_gradient(step, norm, images))

    def _report(
        self,
        step: int,
        losses: dict[str, float],
        batch: Batch,
        losses_of: Callable[[Batch], dict[str, Tensor]],
    ) -> None:
        rows = [row for row in range(len(batch)) if not _finite(losses_of(batch.select(row)))]
        alone = bool(rows) and len(rows) < len(batch)
        rows = rows or list(range(len(batch)))
        saved = ""
        if self.folder is not None and self._num_saved < MOST_SAVED:
            self._num_saved += 1
            path = self.folder / f"nonfinite-step-{step}.pt"
            tensors = {key: v.cpu() for key, v in vars(batch).items() if isinstance(v, Tensor)}
            torch.save({"step": step, "losses": losses, "batch": tensors}, path)
            saved = f"; the batch is in {path}"
        found = ", ".join(f"{name} = {value:.4g}" for name, value in losses.items())
        images = "; ".join(describe_image(batch, row) for row in rows[:4]) + ("; …" if len(rows) > 4 else "")
        where = "from " if alone else f"from all {len(batch)} images of the batch: "
        message = f"the loss at step {step} is not finite ({found}), {where}{images}{saved}"
        if self.on_nonfinite == "skip":
            self.say(f"step skipped: {message}")
            return
        advice = (
            "look at these images and their annotations"
            if alone
            else "lower optimizer.lr, or set precision=32-true"
        )
        raise NonfiniteLoss(f"{message}; {advice}, or leave such steps out with on_nonfinite=skip")


def _on_its_way(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """`values` for the CPU, and the event after which they are there; None where they are now."""
    if not values.is_cuda:
        return values, None
    values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return values, event


def _bad_gradient(step: int, norm: Tensor, images: list[int]) -> str:
    shown = ", ".join(map(str, images[:8])) + (", …" if len(images) > 8 else "")
    return (
        f"a gradient at step {step} is not finite (their norm is {float(norm):.4g}) though the losses are, from images "
        f"{shown}; lower optimizer.lr, set precision=32-true, or leave such steps out with on_nonfinite=skip"
    )


def check_boxes(batch: Batch) -> None:
    """Raises `NonfiniteLoss` for boxes that are no numbers, which on a GPU end in an error that names nothing."""
    if not batch.boxes.isfinite().all():
        bad = ~batch.boxes.flatten(1).isfinite().all(dim=1)
        images = "; ".join(describe_image(batch, row) for row in to_list(bad.nonzero().flatten()))
        raise NonfiniteLoss(f"boxes are not finite after augmentation: {images}; mend or remove them")


def describe_image(batch: Batch, row: int) -> str:
    """Image id and boxes of one image of a batch, for a message."""
    found = batch.labels[row] >= 0
    boxes = to_list(batch.boxes[row, found])
    shown = ", ".join("[" + ", ".join(f"{x:.6g}" for x in box) + "]" for box in boxes[:5])
    more = f" and {len(boxes) - 5} more" if len(boxes) > 5 else ""
    what = f" (boxes {shown}{more})" if boxes else ""
    return f"image {int(batch.image_ids[row])}{what}"


def memory_advice(
    settings: "TrainSettings", device: str, *, batch_size: int, checkpoints_stages: bool | None
) -> str:
    """One sentence for a training that ran out of memory: what to lower, of `settings` and in which order.

    `checkpoints_stages` is whether the backbone computes maps again, None for one that cannot.
    """
    accumulated = settings.trainer.accumulate_grad_batches
    half = batch_size // 2
    ways: list[str] = []
    if half:
        ways.append(
            f"loader.batch_size={half} with trainer.accumulate_grad_batches={2 * accumulated} (the same "
            "learning, half of the memory)"
        )
    if checkpoints_stages is False:
        ways.append("backbone.checkpoint_stages=[1,2] (maps computed again, a quarter slower)")
    side = settings.preprocessing.short_side
    ways.append("a smaller preprocessing.short_side and max_size" + (f" than {side}" if side else ""))
    return f"{device} has not enough memory for batches of {batch_size}; lower what it holds: " + ", ".join(
        ways
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    words = ("can't allocate memory", "not enough memory")  # of torch's allocator for the CPU
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _finite(losses: dict[str, Tensor]) -> bool:
    return all(math.isfinite(float(value)) for value in losses.values())
