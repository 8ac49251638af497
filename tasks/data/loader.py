"""`ResumableLoader`: a `DataLoader` that can start in the middle of an epoch."""

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from tasks.data.samplers import EpochSampler


class ResumableLoader(DataLoader[Any]):
    """Counts the batches it has given out, and after `load_state_dict` leaves out as many of the next epoch.

    Lightning keeps the state in its checkpoints. The samples left out are not even read: the sampler
    begins behind them. Its length stays that of a whole epoch.
    """

    waited = 0.0
    """Seconds that whoever iterates has waited for batches so far."""
    _given = 0  # batches of the current epoch
    _left_out = 0  # batches that the next epoch begins behind

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that all of this happens when the first batch is asked for: by then Lightning has
        # told the sampler its epoch, and a checkpoint its place.
        assert self.batch_size is not None
        assert isinstance(self.sampler, EpochSampler)
        self._given, self._left_out = self._left_out % len(self), 0  # all of one is none of the next
        self.sampler.start = self._given * self.batch_size
        started = time.perf_counter()
        for batch in super().__iter__():
            self.waited += time.perf_counter() - started
            self._given += 1
            yield batch
            started = time.perf_counter()

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch."""
        return {"batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets the next epoch begin where `state` was taken."""
        self._left_out = state["batches"]
