"""Which images a rank reads in an epoch, and in which order."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that a data set can seed its augmentation by both, whichever worker reads.

    With `shuffle` (training) the order is drawn from `seed` and the epoch, and all ranks get equally many
    indices: the at most `num_ranks` - 1 left over sit out this epoch. Without (evaluation) each index is
    yielded exactly once over all ranks, in order, and some ranks may get one fewer.
    """

    def __init__(self, num_samples: int, *, shuffle: bool, seed: int = 0, rank: int = 0, num_ranks: int = 1):
        assert 0 <= rank < num_ranks
        self.num_samples = num_samples
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.epoch = 0
        self.start = 0  # indices of this rank that the next iteration leaves out

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields. Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.num_samples // self.num_ranks
        return len(range(self.rank, self.num_samples, self.num_ranks))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.shuffle:
            # Not seed + epoch: the second epoch of seed 0 would be the first of seed 1.
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples)
        else:
            order = np.arange(self.num_samples)
        start, self.start = self.start, 0
        for position in range(start, len(self)):
            yield self.epoch, int(order[self.rank + position * self.num_ranks])
