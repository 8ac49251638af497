"""Which of many pictures to label next: those that a model is least sure of, and not one like the other.

Legend: N pictures, L labelled ones, C features.
"""

import numpy as np

CANDIDATES = 4
"""For each picture that is wanted, so many of the least sure are looked at."""


def choose(
    uncertainties: np.ndarray,
    features: np.ndarray,
    number: int,
    labelled: np.ndarray | None = None,
    *,
    candidates: int = CANDIDATES,
) -> np.ndarray:
    """Rows of `number` pictures, the first ones worth most; of fewer all.

    Of the `candidates * number` that are least sure, each next one has the largest product of uncertainty and distance
    to the nearest chosen or labelled one: weighted k-center greedy (Gonzalez, 1985; Sener and Savarese, 2018).

    Args:
        uncertainties: (N,), at least 0.
        features: (N, C), of length 1.
        number: how many are wanted.
        labelled: (L, C): features of pictures that have labels already.
        candidates: 1 goes by uncertainty alone.
    """
    pool = np.argsort(-uncertainties, kind="stable")[: candidates * number]
    # A pool of sure pictures has no uncertainty to weigh by: then distance alone decides.
    weights = uncertainties[pool] if uncertainties.any() else np.ones(len(pool))
    distances = (
        np.full(len(pool), 1.0)
        if labelled is None or not len(labelled)
        else nearest(features[pool], labelled)
    )
    chosen: list[int] = []
    left = np.ones(len(pool), bool)
    for _ in range(min(number, len(pool))):
        best = int(np.where(left, weights * distances, -1.0).argmax())
        chosen.append(best)
        left[best] = False
        away = np.linalg.norm(features[pool] - features[pool[best]], axis=1)
        distances = away if len(chosen) == 1 and labelled is None else np.minimum(distances, away)
    return pool[np.array(chosen, np.int64)]


def nearest(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,): the distance from each of `features` (N, C) to the nearest of `others` (L, C), all of length 1."""
    similar = np.concatenate(
        [(part @ others.T).max(axis=1) for part in np.array_split(features, max(1, len(features) // 1024))]
    )
    return np.sqrt(np.maximum(0.0, 2 - 2 * similar))
