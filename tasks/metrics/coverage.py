"""The promise of every metric: each image of the data set counts exactly once, over all ranks."""

import numpy as np


def check_every_image_once(expected: np.ndarray, seen: np.ndarray) -> None:
    """Raises ValueError that names image ids missing from `seen`, repeated in it, or not `expected`.

    Args:
        expected: (I,) int64, ids of the data set, all different.
        seen: (J,) int64, ids in any order, of all ranks.
    """
    ids, times = np.unique(seen, return_counts=True)
    faults = {
        "never seen": np.setdiff1d(expected, ids),
        "seen more than once": ids[times > 1],
        "not in the data set": np.setdiff1d(ids, expected),
    }
    found = [f"{len(ids)} {what} (image ids {preview(ids)})" for what, ids in faults.items() if len(ids)]
    if found:
        raise ValueError(
            f"the numbers of a data set need each of its {len(expected)} images exactly once: "
            f"{'; '.join(found)}. Evaluate all of it, and on several devices with a sampler that repeats no image"
        )


def preview(values: np.ndarray, limit: int = 5) -> str:
    """The first few, for a message."""
    return ", ".join(map(str, values[:limit])) + (", …" if len(values) > limit else "")
