"""Large pictures in tiles: where the tiles lie, and one object of all that several tiles saw of it.

Legend:
    V  views of a picture: its tiles, then the whole of it     N  objects that all views found together
    region  (left, top, right, bottom) of a view in pixels of the picture
    cut     of an object: its box ends where its tile does, and its picture does not, so there may be more of it
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .result import Objects

_SAME = 0.3
"""Two boxes of one class, from two views, are of one object if they overlap more than this where both views look.
Less than suppression within a view takes, because two views of one small object may differ by some pixels, and
those that one view tells apart are never compared."""
_SAME_COARSE = 0.1  # the same where one comes from the whole picture, and is small: its box may be far off
_COVERED = 0.5  # a cut object that another covers this much, where both views look, is a part of it
_EDGE = 0.01  # of a tile's side: a box that ends this near the tile's edge is cut


def find_in_tiles(
    image: np.ndarray, find: Callable[[list[np.ndarray]], list[Any]], tile: int, overlap: float
) -> Any:
    """The objects of `image` (H, W, 3), from what `find` finds in each of its tiles and in the whole of it."""
    height, width = image.shape[:2]
    regions = cut_tiles(height, width, tile, overlap)
    found = find([image[top:bottom, left:right] for left, top, right, bottom in regions.tolist()])
    return merge_tiles(found, regions, tile * overlap)


def cut_tiles(height: int, width: int, tile: int, overlap: float) -> np.ndarray:
    """Regions (V, 4) int64 of tiles of `tile` x `tile` pixels, evenly spread, that cover a picture of `height` x
    `width` and of which neighbours share at least `overlap` of their side; the last region is the whole picture.

    Anything not larger than `overlap * tile` is whole in one of them. A picture that is no larger than a tile has
    the one region.
    """
    rows, columns = (_starts(side, tile, overlap) for side in (height, width))
    whole = [(0, 0, width, height)]
    tiles = [(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]
    return np.array(tiles + whole if len(tiles) > 1 else whole, np.int64)


def merge_tiles(found: Sequence[Objects], regions: np.ndarray, overlap: float) -> Objects:
    """All objects of a picture, each once, best first, from those `found` in each of its `regions` (V, 4).

    `overlap` is the number of pixels that neighbouring tiles share at least. What tiles found whole goes before
    what they cut, and both before what the whole picture shows of objects that are small enough to be whole in a
    tile. Objects that all tiles cut are put together, unless the whole picture shows them in one piece.
    """
    left_top = regions[:, :2].tolist()
    width, height = regions[-1, 2:].tolist()
    found = [
        objects.placed(left, top, (height, width))
        for objects, (left, top) in zip(found, left_top, strict=True)
    ]
    if len(found) == 1:
        return found[0]
    views = np.repeat(np.arange(len(found)), [len(objects) for objects in found])
    boxes, labels, scores = (
        np.concatenate([getattr(objects, name) for objects in found])
        for name in ("boxes", "labels", "scores")
    )
    groups = group_views(boxes, labels, scores, views, regions, overlap)
    return type(found[0]).gathered(found, groups)


def group_views(
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    views: np.ndarray,
    regions: np.ndarray,
    overlap: float,
) -> list[list[int]]:
    """The rows of each object, by score: one that shows it whole, or several that each show a part of it.

    Rows have `boxes` (N, 4) in pixels of the picture, `labels`, `scores`, and `views` (N,), which region is theirs.
    """
    is_cut = cut_by_tile(boxes, views, regions)
    small = (views == len(regions) - 1) & ((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) <= overlap)
    priority = np.where(small, 2, np.where(is_cut, 1, 0))
    seen = regions[views].astype(np.float64)
    alive = np.ones(len(boxes), bool)
    groups: list[list[int]] = []
    for best in np.lexsort((-scores, priority)).tolist():
        if not alive[best]:
            continue
        alive[best] = False
        group, waiting = [best], [best]
        while waiting:  # a part leads to the parts beside it
            row = waiting.pop()
            others = np.flatnonzero(alive & (labels == labels[row]) & (views != views[row]))
            iou, covered = overlaps(boxes[row], seen[row], boxes[others], seen[others])
            is_same = iou > np.where(small[others], _SAME_COARSE, _SAME)
            others = others[is_same | (is_cut[others] & (covered > _COVERED))]
            alive[others] = False
            if is_cut[best]:
                parts = others[is_cut[others]].tolist()
                group += parts
                waiting += parts
        groups.append(group)
    return sorted(groups, key=lambda rows: -scores[rows].max())


def cut_by_tile(boxes: np.ndarray, views: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Which of `boxes` (N, 4) end where their region does and the picture, the last of `regions`, does not."""
    whole, own = regions[-1], regions[views]
    inner = own != whole
    margin = _EDGE * (own[:, 2:] - own[:, :2]).max(axis=1, initial=0)
    return (inner & (np.abs(boxes - own) <= margin[:, None])).any(axis=1)


def overlaps(
    box: np.ndarray, region: np.ndarray, boxes: np.ndarray, regions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far `box` (4,) overlaps each of `boxes` (N, 4), looking only where their views `region` (4,) and
    `regions` (N, 4) both look: intersection over union (N,), and the share of each of `boxes` that it covers (N,).
    """
    shared = _intersection(region, regions)
    mine, theirs = _intersection(box, shared), _intersection(boxes, shared)
    common = _area(_intersection(mine, theirs))
    union = _area(mine) + _area(theirs) - common
    return common / np.maximum(union, 1e-9), common / np.maximum(_area(theirs), 1e-9)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate((np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])), axis=-1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles along a side of the picture begin."""
    if side <= tile:
        return [0]
    count = int(np.ceil((side - tile) / (tile - np.ceil(tile * overlap)))) + 1
    return np.linspace(0, side - tile, count).astype(int).tolist()
