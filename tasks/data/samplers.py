"""Which images a rank reads in an epoch, and in which order."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from tasks.data.sampling import by_shape, drawn


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that a data set can seed its augmentation by both, whichever worker reads.

    With `shuffle` (training) the order is drawn from `seed` and the epoch, and all ranks get equally many
    indices: the at most `num_ranks` - 1 left over sit out this epoch. Without (evaluation) each index is
    yielded exactly once over all ranks, in order, and some ranks may get one fewer.

    Nothing but the epoch and `start` says what comes next, so that both together are the whole state.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        batch_size: int = 1,
        factors: np.ndarray | None = None,
        shapes: np.ndarray | None = None,
        window: int = 0,
    ):
        """For training alone: `factors` (num_samples,) is how often an epoch yields each index, on average; with a
        `window` of so many batches, the batches of all ranks that are trained on at once have like `shapes`
        (num_samples, 2), (height, width). Each rank makes batches of `batch_size` out of what it is given."""
        assert 0 <= rank < num_ranks
        assert shuffle or (factors is None and shapes is None)
        self.num_samples = num_samples
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.batch_size = batch_size
        self.factors = factors
        self.shapes = shapes
        self.window = window
        self.epoch = 0
        self.start = 0  # indices of this rank that the next iteration leaves out

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields. Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if not self.shuffle:
            return len(range(self.rank, self.num_samples, self.num_ranks))
        total = self.num_samples if self.factors is None else round(float(self.factors.sum()))
        return total // self.num_ranks

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self._order()
        start, self.start = self.start, 0
        for position in range(start, len(self)):
            yield self.epoch, int(order[self.rank + position * self.num_ranks])

    def _order(self) -> np.ndarray:
        """The indices of all ranks, which take turns."""
        if not self.shuffle:
            return np.arange(self.num_samples)
        # Not seed + epoch: the second epoch of seed 0 would be the first of seed 1.
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.factors is None:
            order = generator.permutation(self.num_samples)
        else:
            order = drawn(self.factors, generator)
        if self.shapes is not None and self.window > 0:
            at_once = self.num_ranks * self.batch_size
            order = by_shape(order, self.shapes, at_once, self.window, generator)
        return order
