"""`LoaderSettings`: how batches are made, as values that are checked where they are made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.typed_settings import TypedSettings

Workers = Literal["process", "thread"]
Sampling = Literal["all", "repeat_factor", "class_balanced"]
MOST_WORKERS = 8
"""That auto takes for one GPU: a batch for each is held in memory."""


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(TypedSettings):
    """How the images of a split become batches. The batches are the same with any number and kind of workers."""

    prefix = "loader."
    batch_size: int | Literal["auto"] = 8
    """Images on each device; auto takes as many as fit."""
    num_workers: int | Literal["auto"] = "auto"
    """Processes or threads that make batches ahead; auto takes this machine's cores where a GPU computes, and none
    where the cores do."""
    workers: Workers = "process"
    """Threads are faster where decoding and resizing is most of the work, processes where transforms compute in
    Python."""
    reduced_jpeg: bool = False
    """Training decodes JPEGs that are at least twice as large as they are shown at a part of their size: faster, and
    a little smoother than what evaluation, which never does so, sees."""
    sampling: Sampling = "all"
    """How often training reads an image: once in an epoch (all), more often the rarer its rarest class
    (repeat_factor), or as if classes were drawn first (class_balanced)."""
    repeat_threshold: float = 0.001
    """Of repeat_factor: a class is rare that is in a smaller share of the images."""
    empty_share: float | None = None
    """Images without objects, of all that are read."""
    shape_window: int = 0
    """The images of so many batches are put into batches of like shape, which are padded less."""
    max_train_images: int | None = None
    """Training learns from the first so many alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers not in get_args(Workers):
            raise ValueError(
                f"loader.workers={self.workers} is unknown; wanted {' or '.join(get_args(Workers))}"
            )
        if self.sampling not in get_args(Sampling):
            raise ValueError(
                f"loader.sampling={self.sampling} is unknown; wanted one of {', '.join(get_args(Sampling))}"
            )
        if (
            self.repeat_threshold <= 0
            or self.shape_window < 0
            or (self.empty_share is not None and not 0 <= self.empty_share < 1)
        ):
            raise ValueError(
                f"loader.repeat_threshold={self.repeat_threshold} must be above 0, loader.shape_window="
                f"{self.shape_window} at least 0, loader.empty_share={self.empty_share} at least 0 and below 1"
            )
        size, workers = self.batch_size, self.num_workers
        if size != "auto" and (not isinstance(size, int) or size < 1):
            raise ValueError(f"loader.batch_size={size!r} must be a whole number, at least 1, or auto")
        if workers != "auto" and (not isinstance(workers, int) or workers < 0):
            raise ValueError(f"loader.num_workers={workers!r} must be a whole number, at least 0, or auto")

    def workers_for(self, device: str, num_ranks: int) -> int:
        """How many workers each of `num_ranks` on this machine takes, whose network is on a `device` of that kind."""
        if self.num_workers != "auto":
            return self.num_workers
        return max(1, min(MOST_WORKERS, num_cores() // num_ranks - 1)) if device == "cuda" else 0


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
