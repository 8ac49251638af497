"""Whether scores are probabilities: how far off they are, and a monotone map that mends them.

Legend:
    N  detections (or images)        B  bins        P  knots of a map
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BINS = 10
MAX_KNOTS = 24
MIN_SLOPE = 1e-3
"""No part of a map is flatter, so that different scores stay different and their order the same."""


@dataclass(frozen=True)
class Reliability:
    """Mean score and share of right ones in bins of equal width; bins that are empty have nan."""

    edges: np.ndarray
    """(B + 1,)."""
    counts: np.ndarray
    """(B,) int64."""
    scores: np.ndarray
    """(B,): mean."""
    shares: np.ndarray
    """(B,): of right ones."""

    @property
    def expected_error(self) -> float:
        """Mean distance of score and share over all that was scored (ECE: Guo et al., 2017); nan of nothing."""
        total = self.counts.sum()
        gaps = np.nan_to_num(np.abs(self.scores - self.shares))
        return float((gaps * self.counts).sum() / total) if total else float("nan")

    @property
    def largest_error(self) -> float:
        """The distance in the worst bin; nan of nothing."""
        gaps = np.abs(self.scores - self.shares)[self.counts > 0]
        return float(gaps.max()) if len(gaps) else float("nan")


def reliability(scores: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """Of scores (N,) in 0 … 1 and whether each is right (N,)."""
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    some = np.maximum(counts, 1)
    means, shares = (
        np.where(counts > 0, np.bincount(bins, values, num_bins) / some, np.nan)
        for values in (scores, is_right.astype(np.float64))
    )
    return Reliability(edges, counts, means, shares)


@dataclass(frozen=True)
class Calibration:
    """A strictly rising map of 0 … 1 into itself, straight between knots."""

    x: np.ndarray
    """(P,) ascending: scores."""
    y: np.ndarray
    """(P,) ascending: probabilities."""

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        is_map = len(x) == len(y) >= 2 and np.isfinite(x).all() and np.isfinite(y).all()
        if not (is_map and (np.diff(x) > 0).all() and (np.diff(y) > 0).all() and y[0] >= 0 and y[-1] <= 1):
            raise ValueError("a calibration must be two rising lists of as many numbers, from 0 to 1")

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """float64: the probabilities of scores in 0 … 1. Equal scores stay equal, different ones different."""
        return np.interp(np.asarray(scores, np.float64), self.x, self.y)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"x": self.x.tolist(), "y": self.y.tolist()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Calibration":
        """What `to_dict` gave."""
        return cls(np.asarray(values["x"], np.float64), np.asarray(values["y"], np.float64))


def fit_calibration(scores: np.ndarray, is_right: np.ndarray) -> Calibration:
    """The rising map that fits best (isotonic regression: Zadrozny and Elkan, 2002), smoothed to a few knots.

    Of nothing at all it is the identity.
    """
    if not len(scores):
        return Calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    order = np.argsort(scores, kind="stable")
    # Quantiles first: blocks of as many detections each, so that no knot stands on one or two.
    blocks = np.array_split(order, min(MAX_KNOTS, max(1, len(order) // 20)))
    x = np.array([scores[block].mean() for block in blocks])
    counts = np.array([len(block) for block in blocks], np.float64)
    # Half a right and half a wrong one more (Jeffreys) keep ends away from 0 and 1.
    shares = np.array([(is_right[block].sum() + 0.5) / (len(block) + 1) for block in blocks])
    y = isotonic(shares, counts)
    x, first = np.unique(np.clip(x, 1e-6, 1 - 1e-6), return_index=True)
    y = y[first]
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[y[0] * x[0] / max(x[0], 1e-3)], y, [y[-1]]])
    y[0] = min(y[0], y[1])
    rising = np.maximum.accumulate(np.minimum(y, 1 - MIN_SLOPE) * (1 - MIN_SLOPE)) + MIN_SLOPE * x
    return Calibration(x, np.clip(rising, 0, 1))


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rising (n,) nearest to `values` in the weighted squares: pool adjacent violators."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, u, m), (b, v, n) = pools[-2], pools[-1]
            pools[-2:] = [((a * u + b * v) / (u + v), u + v, m + n)]
    return np.repeat([mean for mean, _, _ in pools], [length for _, _, length in pools])
