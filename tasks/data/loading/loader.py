"""`ResumableLoader`: a `DataLoader` that can start in the middle of an epoch, and whose workers may be threads."""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import cv2
from torch.utils.data import DataLoader

from tasks.data.loading.samplers import EpochSampler


class WorkerError(ValueError):
    """A process that makes batches was killed, or ended on its own."""


BATCHES_AHEAD = 2
"""Batches that each thread works ahead; as many as a worker process of `DataLoader` does."""


class ResumableLoader(DataLoader[Any]):
    """Counts the batches it has given out, and after `load_state_dict` leaves out as many of the next epoch.

    Lightning keeps the state in its checkpoints. The samples left out are not even read: the sampler
    begins behind them. Its length stays that of a whole epoch.

    With `num_threads` batches are made by as many threads, in the order of the sampler. Nothing is copied
    between processes, which costs more than resizing an image does; but threads get in each other's way while
    Python itself computes, as in much of albumentations.
    """

    waited = 0.0
    """Seconds that whoever iterates has waited for batches so far."""
    _given = 0  # batches of the current epoch
    _left_out = 0  # batches that the next epoch begins behind

    def __init__(self, *arguments: Any, num_threads: int = 0, **options: Any):
        super().__init__(*arguments, **options)
        assert not (num_threads and self.num_workers), "workers are processes or threads"
        self.num_threads = num_threads

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that all of this happens when the first batch is asked for: by then Lightning has
        # told the sampler its epoch, and a checkpoint its place.
        if not isinstance(self.sampler, EpochSampler):  # Lightning predicts with a batch sampler around ours
            yield from super().__iter__()
            return
        assert self.batch_size is not None
        self._given, self._left_out = self._left_out % len(self), 0  # all of one is none of the next
        self.sampler.start = self._given * self.batch_size
        started = time.perf_counter()
        batches = self._from_threads() if self.num_threads else told_plainly(super().__iter__())
        with closing(batches):  # its threads end with the epoch, not whenever Python collects it
            for batch in batches:
                self.waited += time.perf_counter() - started
                self._given += 1
                yield batch
                started = time.perf_counter()

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch."""
        return {"batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets the next epoch begin where `state` was taken."""
        self._given = self._left_out = state["batches"]

    def _from_threads(self) -> Generator[Any, None, None]:
        use_one_thread()
        assert self.batch_sampler is not None
        positions = iter(self.batch_sampler)
        pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="loader")
        try:
            ahead = islice(positions, BATCHES_AHEAD * self.num_threads)
            pending = deque(pool.submit(self._make, of_batch) for of_batch in ahead)
            while pending:
                batch = pending.popleft().result()
                pending.extend(pool.submit(self._make, of_batch) for of_batch in islice(positions, 1))
                yield batch
        finally:  # also where the epoch is left early, or a batch raised an error
            pool.shutdown(cancel_futures=True)

    def _make(self, positions: Sequence[Any]) -> Any:
        batch = self.collate_fn([self.dataset[position] for position in positions])
        return batch.pin_memory() if self.pin_memory else batch


def told_plainly(batches: Iterator[Any]) -> Generator[Any, None, None]:
    """The batches of worker processes, whose errors are told in the words in which they were raised there."""
    try:
        yield from batches
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerError(
            f"a process that makes batches has ended ({str(error).splitlines()[0].strip(' .')}); most often memory was "
            "not enough: lower loader.num_workers or loader.batch_size, or take threads with loader.workers=thread"
        ) from error
    except (ValueError, OSError) as error:
        kind = type(error)
        raised = f"\n{kind.__module__}.{kind.__qualname__}: ".replace("\nbuiltins.", "\n")
        _, found, text = str(error).rpartition(raised)
        if not str(error).startswith("Caught ") or not found:
            raise
        raise kind(text.strip()) from error


def use_one_thread(worker: int = 0) -> None:
    """Keeps OpenCV in a worker to the one core that the worker is meant to use."""
    cv2.setNumThreads(0)
