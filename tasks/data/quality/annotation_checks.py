"""Finds bad annotations of a split, and fixes those that can be fixed.

Legend, beside that of tasks/data/formats/raw.py:
    alive  (M,) bool: rows that count; a row that was given up is neither looked at nor compared with
    limits (M, 2) width and height of each row's image
"""

from copy import copy
from dataclasses import dataclass

import numpy as np

from tasks.data.annotations.outlines import clip_ring
from tasks.data.annotations.segmentations import scaled
from tasks.data.formats.raw import RawSplit
from tasks.data.quality.issues import (
    BAD_AREA,
    BAD_CROWD,
    BAD_SEGMENTATION,
    CORNERS,
    DEGENERATE,
    DUPLICATE,
    DUPLICATE_ID,
    FEW_POINTS,
    FRACTIONS,
    NEGATIVE,
    NOT_FINITE,
    ODD_POLYGON,
    OUTSIDE,
    PIXELS,
    POLYGON_OUTSIDE,
    REVERSED,
    RUNS_OF_OTHER_SIZE,
    UNKNOWN_CATEGORY,
    UNKNOWN_IMAGE,
    WRONG_COLUMNS,
    Issue,
)
from tasks.data.quality.segmentation_checks import ReadMasks, read_masks

TOLERANCE = 1.0
"""Pixels by which a box may leave its image, or polygons their box, unnoticed: rounding in the tools that wrote
them."""
MIN_SIDE = 0.01
"""Pixels; a box of a smaller side has no area in float32."""
FAR = 2.0
"""Pixels by which polygons may leave the image before they are cut at its border: pycocotools draws whole lines."""
MASK_FAULTS = (BAD_SEGMENTATION, RUNS_OF_OTHER_SIZE, FEW_POINTS, ODD_POLYGON)
"""Faults of a mask, without which an object keeps its box."""
MAX_ROUNDS = 4
"""Fixing one issue may uncover another; an annotation with more than so many is given up."""

Rows = dict[Issue, np.ndarray]


@dataclass
class AnnotationDiagnosis:
    """What is wrong with the annotations of a split, and what becomes of it."""

    rows: Rows
    """Rows by their first issue."""
    fixed: RawSplit
    """The split with fixed values."""
    masks: ReadMasks | None
    is_fixed: np.ndarray
    """(M,) bool: bad, but good in `fixed`."""
    bounds: np.ndarray
    """(M, 4) float64 xyxy of the polygons as written; NaN without."""

    @property
    def is_bad(self) -> np.ndarray:
        """(M,) bool."""
        bad = np.zeros(len(self.fixed.ids), bool)
        for rows in self.rows.values():
            bad[rows] = True
        return bad


def diagnose_annotations(raw: RawSplit) -> AnnotationDiagnosis:
    """Looks for every issue, and for what fixing leads to. `raw` itself stays as it is."""
    masks = None if raw.segmentations is None else read_masks(raw.segmentations, raw.images, raw.sizes)
    alive = np.ones(len(raw.ids), bool)
    first = problems = find_issues(raw, masks, alive)
    is_fixed = np.zeros(len(raw.ids), bool)
    bounds = np.full((len(raw.ids), 4), np.nan) if masks is None else masks.bounds.copy()
    fixed = raw
    if problems:
        fixed = copy(raw)
        fixed.ids, fixed.boxes, fixed.areas = raw.ids.copy(), raw.boxes.copy(), raw.areas.copy()
        fixed.row_issues = dict(raw.row_issues)
    for _ in range(MAX_ROUNDS):
        if not problems:
            break
        for issue, rows in problems.items():
            with np.errstate(invalid="ignore", over="ignore"):
                good = fix(issue, fixed, masks, rows)
            is_fixed[rows] = good
            alive[rows[~good]] = False
        problems = find_issues(fixed, masks, alive)
    for rows in problems.values():
        is_fixed[rows] = False
    return AnnotationDiagnosis(first, fixed, masks, is_fixed, bounds)


def find_issues(raw: RawSplit, masks: ReadMasks | None, alive: np.ndarray) -> Rows:
    """Rows of bad annotations by what is wrong with them; a row is listed once, under its first issue."""
    size_known = np.append(raw.sizes.min(axis=1, initial=1) > 0, False)
    # Rows without an image get an endless one: their issue is another.
    sides = np.append(raw.sizes[:, ::-1].astype(np.float64), [[np.inf, np.inf]], axis=0)
    sides[~size_known] = np.inf
    limits = sides[raw.images]
    start, extent = raw.boxes[:, :2], raw.boxes[:, 2:]
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # NaN compares false everywhere; it is found on its own
        stop = start + extent
        finite = np.isfinite(raw.boxes).all(axis=1) & np.isfinite(raw.areas)
        inside = np.minimum(stop, limits) - np.maximum(start, 0)
        beyond = ~rows_where((stop <= limits + TOLERANCE) & (inside > 0))
        normalised = in_fractions(raw, limits)
        corners = in_corners(raw, masks, limits, beyond)
        is_bad = {
            UNKNOWN_IMAGE: raw.images < 0,
            UNKNOWN_CATEGORY: raw.labels < 0,
            DUPLICATE_ID: repeats(raw.ids, alive),
            **{issue: written(raw, issue) for issue in (BAD_CROWD, WRONG_COLUMNS)},
            ODD_POLYGON: written(raw, ODD_POLYGON),  # where the box comes from it
            NOT_FINITE: ~finite,
            DEGENERATE: (np.abs(extent) < MIN_SIDE).any(axis=1) & ~normalised,
            REVERSED: (extent < 0).any(axis=1),
            CORNERS: corners,
            FRACTIONS: normalised & (not raw.is_normalised),
            PIXELS: normalised & raw.is_normalised,
            NEGATIVE: (start < -TOLERANCE).any(axis=1),
            OUTSIDE: beyond,
            BAD_AREA: raw.areas <= 0,
        }
        if masks is not None:
            is_bad |= {issue: masks.issues[issue] | written(raw, issue) for issue in MASK_FAULTS}
            low, high = start - masks.bounds[:, :2], masks.bounds[:, 2:] - stop
            is_bad[POLYGON_OUTSIDE] = (low > TOLERANCE).any(axis=1) | (high > TOLERANCE).any(axis=1)
    seen = ~alive
    problems: Rows = {}
    for issue, bad in is_bad.items():
        if (rows := np.flatnonzero(bad & ~seen)).size:
            problems[issue] = rows
        seen = seen | bad
    if (rows := duplicates(raw, np.flatnonzero(~seen))).size:
        problems[DUPLICATE] = rows
    return problems


def written(raw: RawSplit, issue: Issue) -> np.ndarray:
    """(M,) bool: rows that were found to have the issue when they were read."""
    rows = np.zeros(len(raw.ids), bool)
    rows[list(raw.row_issues.get(issue, {}))] = True
    return rows


def in_fractions(raw: RawSplit, limits: np.ndarray) -> np.ndarray:
    """(M,) bool: boxes in fractions of their image where pixels are meant; in a format of fractions, the reverse."""
    start, extent = raw.boxes[:, :2], raw.boxes[:, 2:]
    stop = start + extent
    possible = rows_where((start >= 0) & np.isfinite(limits) & (limits >= 8))
    if raw.is_normalised:  # pixels that were multiplied by the sides of the image
        possible &= rows_where((extent >= limits) & (stop <= limits * limits + limits))
        return possible & (stop > 2 * limits).any(axis=1)
    possible &= rows_where((extent > 0) & (stop <= 1))
    is_broken = (raw.boxes % 1 != 0).any(axis=1)  # a whole pixel in the corner of an image may be meant
    return possible & (is_broken | is_usual(possible & is_broken))


def rows_where(conditions: np.ndarray) -> np.ndarray:
    """(M,) bool: rows of (M, C) of which all are true."""
    return np.logical_and.reduce(conditions, axis=1)


def is_usual(rows: np.ndarray) -> bool:
    """Whether more than half of all rows (M,) are true."""
    return 2 * int(rows.sum()) > len(rows)


def in_corners(raw: RawSplit, masks: ReadMasks | None, limits: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """(M,) bool: boxes that hold x1, y1, x2, y2 where x, y, width, height are meant.

    Many boxes can be read either way. What tells is an area that fits the corners alone, where the box as it
    stands leaves its image or most boxes of the file are so; or polygons that fill the corners exactly.
    """
    start, end = raw.boxes[:, :2], raw.boxes[:, 2:]
    extent = end - start
    possible = rows_where((start > -TOLERANCE) & (extent > MIN_SIDE) & (end <= limits + TOLERANCE))
    fits = np.isclose(raw.areas, extent.prod(axis=1), rtol=1e-3, atol=0.01)
    fits &= ~np.isclose(raw.areas, end.prod(axis=1), rtol=1e-3, atol=0.01)
    found = possible & fits & (beyond | is_usual(possible & fits))
    if masks is not None:
        filled = (np.abs(masks.bounds - raw.boxes) <= TOLERANCE).all(axis=1)
        filled &= (np.abs(masks.bounds[:, 2:] - start - end) > TOLERANCE).any(axis=1)
        found |= possible & filled
    return found


def repeats(ids: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """(M,) bool: rows whose id an earlier row has."""
    rows = np.flatnonzero(alive)
    is_repeated = alive.copy()
    is_repeated[rows[np.unique(ids[rows], return_index=True)[1]]] = False
    return is_repeated


def duplicates(raw: RawSplit, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` that repeat an earlier one: image, category, box, crowd, and segmentation where both have one."""
    numbers = np.column_stack([raw.boxes + 0.0, raw.images, raw.labels, raw.is_crowd])[rows]  # + 0.0: no -0
    # One number a row to sort by: sorting by seven takes ten times as long.
    odd = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93,
                    0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 0x94D049BB133111EB], np.uint64)  # fmt: skip
    keys = (numbers.view(np.uint64) * odd).sum(axis=1, dtype=np.uint64)
    _, group, count = np.unique(keys, return_inverse=True, return_counts=True)
    known: dict[tuple[float, ...], list[int]] = {}
    found = []
    for place in np.flatnonzero(count[group] > 1).tolist():
        row = int(rows[place])
        earlier = known.setdefault(tuple(numbers[place].tolist()), [])
        shapes = raw.segmentations
        if any(shapes is None or not shapes[row] or shapes[e] in (None, [], shapes[row]) for e in earlier):
            found.append(row)
        earlier.append(row)
    return np.array(found, np.int64)


def fix(issue: Issue, raw: RawSplit, masks: ReadMasks | None, rows: np.ndarray) -> np.ndarray:
    """Fixes `rows` of `raw`, and of `masks`, in place as far as can be; (len(rows),) bool says which were."""
    boxes = raw.boxes[rows]
    limits = raw.sizes[raw.images[rows], ::-1].astype(np.float64)
    if issue is DUPLICATE_ID:
        raw.ids[rows] = raw.ids.max() + 1 + np.arange(len(rows))
        return np.ones(len(rows), bool)
    if issue is NOT_FINITE:  # a box without an area has that of its sides
        good = rows_where(np.isfinite(boxes))
        raw.areas[rows[good]] = boxes[good, 2:].prod(axis=1)
        return good
    if issue is BAD_AREA:
        raw.areas[rows] = boxes[:, 2:].prod(axis=1)
        return raw.areas[rows] > 0
    if issue is WRONG_COLUMNS:  # a box and one number more; rows of another kind have no box
        raw.row_issues[issue] = {}
        return rows_where(np.isfinite(boxes))
    if issue in MASK_FAULTS and masks is not None:  # without the bad ring, or without the mask
        masks.issues[issue][rows] = False
        for row in rows.tolist():
            if masks.objects[row] is None:
                masks.bounds[row] = np.nan
        if issue is ODD_POLYGON:
            return ~np.isin(rows, list(raw.row_issues.get(issue, {})))  # whose box would come from it
        raw.row_issues[issue] = {}
        return np.ones(len(rows), bool)
    if issue is REVERSED:
        boxes = np.concatenate(
            [np.minimum(boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), np.abs(boxes[:, 2:])], axis=1
        )
        start, stop = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        good = rows_where(
            (start >= -TOLERANCE) & (stop <= limits + TOLERANCE)
        )  # else: who knows what was meant
    elif issue is CORNERS:
        boxes = between(boxes[:, :2], boxes[:, 2:])
        good = np.ones(len(rows), bool)
    elif issue in (FRACTIONS, PIXELS):
        scale = np.tile(limits, 2)
        boxes = boxes * scale if issue is FRACTIONS else boxes / scale
        good = rows_where(boxes[:, 2:] >= MIN_SIDE)
        raw.areas[rows[good]] = boxes[good, 2:].prod(axis=1)
        if masks is not None:
            scale_rings(
                masks, rows[good], scale[good] if issue is FRACTIONS else 1 / scale[good], boxes[good]
            )
    elif issue in (NEGATIVE, OUTSIDE):
        boxes = between(boxes[:, :2].clip(0, limits), (boxes[:, :2] + boxes[:, 2:]).clip(0, limits))
        good = rows_where(boxes[:, 2:] >= MIN_SIDE)
    elif issue is POLYGON_OUTSIDE and masks is not None:
        bounds = masks.bounds[rows]
        low, high = (
            np.maximum(bounds[:, :2], boxes[:, :2]),
            np.minimum(bounds[:, 2:], boxes[:, :2] + boxes[:, 2:]),
        )
        good = rows_where(high > low)  # polygons that do not meet their box are of another object
        boxes = between(bounds[:, :2].clip(0, limits), bounds[:, 2:].clip(0, limits))
        # The box is the one around the polygons from here on; what of them is outside the image is cut off anyway.
        masks.bounds[rows[good]] = np.nan
        is_far = ((bounds[:, :2] < -FAR) | (bounds[:, 2:] > limits + FAR)).any(axis=1)
        for row, (width, height) in zip(
            rows[good & is_far].tolist(), limits[good & is_far].tolist(), strict=True
        ):
            rings = masks.objects[row]
            assert isinstance(rings, list)
            masks.objects[row] = [r for ring in rings if (r := clip_ring(ring, width, height))] or None
    else:
        return np.zeros(len(rows), bool)
    raw.boxes[rows[good]] = boxes[good]
    return good


def scale_rings(masks: ReadMasks, rows: np.ndarray, scale: np.ndarray, boxes: np.ndarray) -> None:
    """Multiplies, in place, the rings of `rows` by `scale` (len(rows), 4) where that is what brings them to `boxes`."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    bounds = masks.bounds[rows] * scale
    fits = rows_where(np.abs(bounds - np.concatenate([low, high], axis=1)) <= TOLERANCE)
    for row, (width, height), of_row in zip(
        rows[fits].tolist(), scale[fits, :2].tolist(), bounds[fits], strict=True
    ):
        rings = masks.objects[row]
        assert isinstance(rings, list)
        masks.objects[row] = scaled(rings, width, height)
        masks.bounds[row] = of_row


def between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(N, 4) x, y, width, height of these corners."""
    return np.concatenate([low, high - low], axis=1)
