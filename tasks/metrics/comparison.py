"""Is one model better than another? Both are resampled on the same images, so that what images have in common cancels.

Runs of one setting with several seeds count as one: their numbers are averaged, and seeds are resampled as well, so
that the interval also covers what another seed would give.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.metrics.bootstrap import RESAMPLES, Interval, interval, num_threads, resampling
from tasks.metrics.outcomes import Scored


@dataclass(frozen=True)
class Difference:
    """How much more the second has of one number."""

    first: float
    second: float
    ends: Interval
    """Of `second` - `first`, at 95 %."""
    num_images: int

    @property
    def value(self) -> float:
        """`second` - `first`."""
        return self.second - self.first

    @property
    def is_clear(self) -> bool:
        """Whether 0 is outside of the interval."""
        return self.ends[0] > 0 or self.ends[1] < 0

    @property
    def images_needed(self) -> int | None:
        """About how many images would set a difference of this size apart from 0, to two digits; None where it is 0.

        The width of an interval falls with the root of their number."""
        side = max(self.value - self.ends[0], self.ends[1] - self.value)
        if not self.value or not math.isfinite(side):
            return None
        needed = self.num_images * (side / self.value) ** 2
        digits = max(0, math.floor(math.log10(needed)) - 1)
        return math.ceil(needed / 10**digits) * 10**digits


def compare(
    first: Sequence[Scored], second: Sequence[Scored], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """The difference of each number that both have, from the runs of one setting to those of another.

    Raises:
        ValueError: not all were scored on the same images with the same annotations; the sentence says what differs.
    """
    every = [*first, *second]
    for other in every[1:]:
        check_same(every[0], other)
    num_images = every[0].outcomes.num_images
    weights = resampling(num_images, resamples, seed)
    numbers = [run.outcomes.weighted(weights, threads=num_threads()) for run in every]
    generator = np.random.default_rng((seed, 1))
    sides = [_of_setting(numbers[: len(first)], generator), _of_setting(numbers[len(first) :], generator)]
    found = {}
    for name in sides[0].keys() & sides[1].keys():
        a, b = sides[0][name], sides[1][name]
        ends = interval(b - a, num_images)
        if not math.isnan(ends[0]):
            found[name] = Difference(float(a[0]), float(b[0]), ends, num_images)
    return {name: found[name] for name in sides[0] if name in found}


def check_same(one: Scored, other: Scored) -> None:
    """Raises ValueError unless both were scored on the same images, with the same annotations."""
    what = None
    if type(one.outcomes) is not type(other.outcomes):
        what = "one finds objects, the other does another task"
    elif list(one.outcomes.class_names) != list(other.outcomes.class_names):
        what = "their classes differ"
    elif one.split != other.split:
        what = f"one was scored on {one.split}, the other on {other.split}"
    elif not np.array_equal(one.image_ids, other.image_ids):
        what = f"one was scored on {len(one.image_ids)} images, the other on {len(other.image_ids)}, not all the same"
    elif not all(
        np.array_equal(a, b) for a, b in zip(one.outcomes.truth(), other.outcomes.truth(), strict=True)
    ):
        what = "their annotations differ"
    if what:
        raise ValueError(
            f"{one.folder} and {other.folder} cannot be compared: {what}; evaluate both on one split of one data set"
        )


def verdict(name: str, difference: Difference, first: str, second: str) -> str:
    """The difference in words."""
    d = difference
    images = f"{d.num_images} image{'s' * (d.num_images != 1)}"
    head = f"{name} {d.first:.3f} and {d.second:.3f}: "
    if d.is_clear:
        better, low, high = (second, *d.ends) if d.value > 0 else (first, -d.ends[1], -d.ends[0])
        return head + f"{better} is better by {abs(d.value):.3f} [{low:.3f}, {high:.3f}], {images}"
    text = f"cannot be told apart with {images} ({d.value:+.3f} [{d.ends[0]:+.3f}, {d.ends[1]:+.3f}])"
    if d.images_needed is not None and d.images_needed > d.num_images:
        text += f"; about {d.images_needed:,} would be needed"
    return head + text


def _of_setting(
    runs: Sequence[dict[str, np.ndarray]], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Numbers (W,) averaged over the runs of one setting: the first over all, each other over a draw of them."""
    if len(runs) == 1:
        return runs[0]
    num = len(next(iter(runs[0].values())))
    drawn = generator.integers(0, len(runs), (num, len(runs)))
    drawn[0] = np.arange(len(runs))
    # Draws of few are too much alike: what differs from the mean is spread by the root of n / (n - 1).
    spread = math.sqrt(len(runs) / (len(runs) - 1))
    found = {}
    for name in runs[0]:
        values = np.stack([run[name] for run in runs], axis=1)
        mean = values.mean(axis=1)
        of_draw = np.take_along_axis(values, drawn, axis=1).mean(axis=1)
        found[name] = np.where(np.arange(num) == 0, mean, mean + spread * (of_draw - mean))
    return found
