"""Finds bad annotations of a split and, as the user chose, stops, mends or drops them.

Legend, beside that of tasks/data/annotations.py:
    rows  indices of annotations in the order of the file, 0 … M-1
"""

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

logger = logging.getLogger(__name__)

OnBad = Literal["error", "fix", "drop"]

TOLERANCE = 1.0
"""Pixels by which a box may leave its image unnoticed: rounding in the tools that wrote it."""
NUM_EXAMPLES = 5

UNKNOWN_CATEGORY = "its category_id is not declared"
UNKNOWN_IMAGE = "its image_id points nowhere"
DUPLICATE_ID = "its id occurs before"
NOT_FINITE = "its bbox or area is not made of finite numbers"
NO_AREA = "its width or height is not positive"
OUTSIDE = "its box leaves the image"
BAD_SEGMENTATION = "its segmentation is neither polygons nor run lengths of the image's size"


@dataclass
class AnnotationColumns:
    """The annotations of a file as columns, unchecked, in the order of the file."""

    ids: np.ndarray
    """(M,) int64."""
    image_ids: np.ndarray
    """(M,) int64 as written."""
    category_ids: np.ndarray
    """(M,) int64 as written."""
    images: np.ndarray
    """(M,) int64: row of the image, -1 where `image_ids` points nowhere."""
    labels: np.ndarray
    """(M,) int64: label, -1 where the category is not declared."""
    boxes: np.ndarray
    """(M, 4) float64 x, y, width, height; NaN where there were no four numbers."""
    areas: np.ndarray
    """(M,) float64."""
    bad_segmentations: np.ndarray
    """(M,) bool."""


def find_problems(columns: AnnotationColumns, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of bad annotations by what is wrong with them; a row is listed once, under its first fault.

    `sizes` (I, 2) are the images' (height, width).
    """
    num_rows = len(columns.ids)
    is_duplicate = np.ones(num_rows, bool)
    is_duplicate[np.unique(columns.ids, return_index=True)[1]] = False
    # Rows without an image get an endless one: their fault is another.
    limits = np.concatenate([sizes[:, ::-1], [[np.inf, np.inf]]])[columns.images]
    start, extent = columns.boxes[:, :2], columns.boxes[:, 2:]
    with np.errstate(invalid="ignore"):  # NaN compares false everywhere; it is found on its own
        stop = start + extent
        inside = np.minimum(stop, limits) - np.maximum(start, 0)
        outside = (start < -TOLERANCE) | (stop > limits + TOLERANCE) | (inside <= 0)
        no_area = extent <= 0
    faults = {
        UNKNOWN_IMAGE: columns.images < 0,
        UNKNOWN_CATEGORY: columns.labels < 0,
        DUPLICATE_ID: is_duplicate,
        NOT_FINITE: ~np.isfinite(columns.boxes).all(axis=1) | ~np.isfinite(columns.areas),
        NO_AREA: no_area.any(axis=1),
        OUTSIDE: outside.any(axis=1),
        BAD_SEGMENTATION: columns.bad_segmentations,
    }
    seen = np.zeros(num_rows, bool)
    problems: dict[str, np.ndarray] = {}
    for fault, is_bad in faults.items():
        if (rows := np.flatnonzero(is_bad & ~seen)).size:
            problems[fault] = rows
        seen |= is_bad
    return problems


def resolve(
    columns: AnnotationColumns, sizes: np.ndarray, file_names: list[str], source: str, on_bad: OnBad
) -> np.ndarray:
    """Rows to keep, ascending. `fix` clips boxes that leave their image, in `columns`, and drops what
    cannot be mended; `drop` drops every bad row; `error` raises ValueError if there is any.

    `source` is the annotation file's name, for messages.
    """
    check_on_bad(on_bad)
    problems = find_problems(columns, sizes)
    num_rows = len(columns.ids)
    if not problems:
        return np.arange(num_rows)
    num_bad = sum(len(rows) for rows in problems.values())
    if on_bad == "error":
        examples = sorted(
            (int(row), fault) for fault, rows in problems.items() for row in rows[:NUM_EXAMPLES]
        )
        described = [
            describe(columns, sizes, file_names, row, fault) for row, fault in examples[:NUM_EXAMPLES]
        ]
        more = f"; and {num_bad - len(described)} more" if num_bad > len(described) else ""
        raise ValueError(
            f"'{source}': {num_bad} of {num_rows} annotations cannot be used: {'; '.join(described)}{more}. "
            "Mend the file, or pass data.on_bad=fix (clips boxes to their image, drops the rest) or "
            "data.on_bad=drop (leaves these annotations out)"
        )
    is_kept = np.ones(num_rows, bool)
    for rows in problems.values():
        is_kept[rows] = False
    num_clipped = 0
    if on_bad == "fix" and OUTSIDE in problems:
        rows = problems[OUTSIDE]
        limits = sizes[columns.images[rows], ::-1]
        start = columns.boxes[rows, :2].clip(0, limits)
        extent = (columns.boxes[rows, :2] + columns.boxes[rows, 2:]).clip(0, limits) - start
        # A fault of the segmentation is looked for behind that of the box, and cannot be mended.
        mended = (extent > 0).all(axis=1) & ~columns.bad_segmentations[rows]
        columns.boxes[rows[mended]] = np.concatenate([start, extent], axis=1)[mended]
        is_kept[rows[mended]] = True
        num_clipped = int(mended.sum())
    dropped = ", ".join(
        f"{count} because {fault}"
        for fault, rows in problems.items()
        if (count := int((~is_kept[rows]).sum()))
    )
    logger.warning(
        "'%s': data.on_bad=%s clipped %d boxes and dropped %d of %d annotations%s",
        source,
        on_bad,
        num_clipped,
        num_rows - int(is_kept.sum()),
        num_rows,
        f": {dropped}" if dropped else "",
    )
    return np.flatnonzero(is_kept)


def check_on_bad(on_bad: str) -> None:
    """Raises ValueError for a word that is no policy."""
    if on_bad not in get_args(OnBad):
        raise ValueError(f"data.on_bad={on_bad} is unknown; wanted one of {', '.join(get_args(OnBad))}")


def describe(
    columns: AnnotationColumns, sizes: np.ndarray, file_names: list[str], row: int, fault: str
) -> str:
    """One bad annotation with its ids, its file and the numbers that are wrong."""
    image = int(columns.images[row])
    where = f"image {columns.image_ids[row]}"
    if image >= 0:
        height, width = sizes[image]
        where += f", '{file_names[image]}', {width} wide and {height} high"
    box = ", ".join(f"{value:g}" for value in columns.boxes[row])
    return (
        f"annotation {columns.ids[row]} ({where}): {fault} "
        f"(category_id {columns.category_ids[row]}, bbox x, y, width, height = {box})"
    )
