"""How sure a number of a data set is: percentile intervals from resamples of its images.

Images are drawn with replacement, as often as there are images (Efron, 1979), and the quantiles of what that gives are
the ends. Average precision of few images is too high on average, as it looks for the best precision at each recall: of
60 images by half a standard deviation. How much falls from the whole set to halves of it tells how much still has to
fall (Quenouille, 1956), and the ends are shifted by it. They go a little farther out for few images (Hesterberg, 2015,
"What Teachers Should Know About the Bootstrap"). An interval says what other images of the same kind would do to the
number, not what another seed of the training would.
"""

import math
import os
from collections.abc import Mapping
from statistics import NormalDist
from typing import Protocol

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
MOST_EMPTY = 1 / 200
"""No interval where a larger share of resamples has no value: about where five images show anything of it."""
FEW_IMAGES = 20
"""Below so many, intervals say little: resamples of few images are much alike."""

Interval = tuple[float, float]


class Outcomes(Protocol):
    """What a model did on each image of a data set, enough to make its numbers anew for any weighting of the images
    (`outcomes.py`)."""

    @property
    def num_images(self) -> int: ...

    def weighted(self, weights: np.ndarray, *, threads: int = 1) -> dict[str, np.ndarray]:
        """The numbers (W,) by name, for each of `weights` (W, I)."""
        ...


def resample_weights(num_images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """int32 (W, I): how often each image is drawn in each resample."""
    if not num_images:
        return np.zeros((resamples, 0), np.int32)
    generator = np.random.default_rng(seed)
    shares = np.full(num_images, 1 / num_images)
    return generator.multinomial(num_images, shares, resamples).astype(np.int32)


def resampling(num_images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """int32 (1 + resamples + halves, I): the data set itself, resamples, and halves of it, as `interval` wants them."""
    order = np.random.default_rng((seed, 2)).random((resamples // 4, num_images)).argsort(axis=1)
    return np.concatenate(
        [
            np.ones((1, num_images), np.int32),
            resample_weights(num_images, resamples, seed),
            (order < num_images // 2).astype(np.int32),
        ]
    )


def interval(values: np.ndarray, num_images: int, confidence: float = CONFIDENCE) -> Interval:
    """Lower and upper end from the values that the weights of `resampling` gave.

    nan where there is none to be had: of fewer than two images, and of what so few images show that one resample in
    200 shows nothing of it.
    """
    resamples = (len(values) - 1) * 4 // 5
    value, samples, halves = float(values[0]), values[1 : 1 + resamples], values[1 + resamples :]
    known = samples[~np.isnan(samples)]
    if num_images < 2 or math.isnan(value) or len(known) < (1 - MOST_EMPTY) * len(samples):
        return math.nan, math.nan
    spread = float(known.std())
    halves = halves[~np.isnan(halves)]
    bias = float(halves.mean()) - value if len(halves) else 0.0
    shift = -(float(known.mean()) - value + bias) / spread if spread > 0 else 0.0
    # Of halves the spread is that of the whole (a jackknife that leaves out half): of the two the larger is believed.
    wide = expanded_quantile(confidence, num_images)
    if spread > 0 and len(halves):
        wide *= max(1.0, float(halves.std()) / spread)
    low, high = np.quantile(known, [NormalDist().cdf(shift - wide), NormalDist().cdf(shift + wide)])
    return float(low), float(high)


def expanded_quantile(confidence: float, num_images: int) -> float:
    """How many standard deviations to go to either side so that the true value is inside as often as asked for."""
    wide = student_quantile((1 + confidence) / 2, num_images - 1)
    return wide * math.sqrt(num_images / (num_images - 1))


def student_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t distribution; an expansion in 1 / `freedom` (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def intervals(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """The interval of each number by its name, as far as there is one."""
    weights = resampling(outcomes.num_images, resamples, seed)
    found = outcomes.weighted(weights, threads=num_threads())
    ends = {name: interval(values, outcomes.num_images) for name, values in found.items()}
    return {name: both for name, both in ends.items() if not math.isnan(both[0])}


def num_threads() -> int:
    """Cores that this process may use, eight at most."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def in_words(intervals: Mapping[str, Interval], num_images: int) -> str:
    """What the brackets behind numbers mean; "" where there are none."""
    if not intervals:
        return ""
    images = f"{num_images} image{'s' * (num_images != 1)}"
    text = f"[…]: {CONFIDENCE:.0%} intervals from {RESAMPLES:,} resamples of the {images}"
    return text + (", too few for intervals to say much" if num_images < FEW_IMAGES else "")


def bracket(both: Interval | None, digits: int = 3, scale: float = 1.0) -> str:
    """` [0.556, 0.611]`, or "" for none."""
    return "" if both is None else f" [{both[0] * scale:.{digits}f}, {both[1] * scale:.{digits}f}]"
