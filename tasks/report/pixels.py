"""The page's sections on a segmenter of pixels: each class, what is taken for what, and where the worst images err."""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from tasks.metrics.bootstrap import Interval, bracket
from tasks.metrics.outcomes import PixelOutcomes, shares
from tasks.report.objects import confusion_section
from tasks.report.page import Section, Table
from tasks.report.pictures import encoded, side_by_side
from tasks.targets import IGNORE_LABEL
from tasks.visualization.class_maps import draw_class_map

BOUNDARY_SHARE = 0.02
"""Of an image's diagonal: how far from its edge a pixel belongs to the boundary of a region (Cheng et al., 2021)."""


def pixel_sections(
    outcomes: PixelOutcomes,
    confusion: np.ndarray | None,
    numbers: Mapping[str, float],
    intervals: Mapping[str, Interval],
    read: Callable[[int], np.ndarray] | None,
    read_truth: Callable[[int], np.ndarray] | None,
    predict: Callable[[np.ndarray], np.ndarray] | None,
    file_name: Callable[[int], str],
    num_pictures: int,
) -> list[Section]:
    """All sections; `read`, `read_truth` give image and class map of a place in order of ids, `predict` what the model
    makes of an image; None where there is none."""
    names = list(outcomes.class_names)
    right, true, found = (values.sum(axis=0) for values in (outcomes.right, outcomes.true, outcomes.found))
    per_image = shares(outcomes.right, outcomes.true + outcomes.found - outcomes.right)
    wrong = 1 - shares(outcomes.right.sum(axis=1), outcomes.true.sum(axis=1))
    order = np.argsort(-np.nan_to_num(wrong), kind="stable").tolist()
    pictures, boundaries = [], []
    if read is not None and read_truth is not None and predict is not None:
        for image in order[:num_pictures]:
            pixels, class_map = read(image), read_truth(image)
            predicted = predict(pixels)
            boundaries.append(boundary_counts(predicted, class_map, len(names)))
            shown = [draw_class_map(pixels, values, names) for values in (class_map, predicted)]
            words = (
                f"{file_name(image)}: {wrong[image]:.1%} of its pixels are wrong; annotated, found, and in red where "
                "the two differ"
            )
            errors = error_map(pixels, predicted, class_map)
            scale = shown[0].shape[1] / errors.shape[1]  # class maps of small images are drawn larger
            errors = cv2.resize(errors, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            pictures.append(encoded(side_by_side(*shown, errors), words))
    boundary = np.sum(boundaries, axis=0) if boundaries else np.zeros((2, len(names)))
    rows = []
    columns = (shares(right, true), shares(right, found), shares(*boundary))
    for k in np.argsort(-true, kind="stable").tolist():
        value = numbers.get(f"iou/{names[k]}", float("nan"))
        cells = [_number(value), bracket(intervals.get(f"iou/{names[k]}")).strip()]
        rows.append((names[k], *cells, *(_number(float(c[k])) for c in columns), int(true[k])))
    header = ("class", "IoU", "95 %", "recall", "precision", "boundary IoU *", "pixels")
    note = (
        f"* Boundary IoU (Cheng et al., 2021) of the {len(boundaries)} images drawn below alone, the worst ones."
        if boundaries
        else ""
    )
    sections = [Section("IoU by class", note, tables=[Table("Classes", header, rows)])]
    if confusion is not None:
        sections.append(confusion_section(confusion, names, "Pixels; rows are true, columns found."))
    listed = [(file_name(i), _number(float(wrong[i])), _number(_mean(per_image[i]))) for i in order[:50]]
    sections.append(
        Section(
            "The worst pictures",
            pictures=pictures,
            tables=[Table("Images by share of wrong pixels", ("image", "wrong", "mean IoU"), listed)],
            values={"images": [list(row) for row in listed]},
        )
    )
    return sections


def error_map(image: np.ndarray, predicted: np.ndarray, class_map: np.ndarray) -> np.ndarray:
    """`image` in grey, in red where `predicted` is not `class_map`; white where nobody knows."""
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    grey[class_map == IGNORE_LABEL] = 255
    grey[(predicted != class_map) & (class_map != IGNORE_LABEL)] = (230, 25, 75)
    return grey


def boundary_counts(predicted: np.ndarray, class_map: np.ndarray, num_classes: int) -> np.ndarray:
    """(2, K) int64: pixels that the boundaries of both have in common, and those of either, class by class."""
    reach = max(1, round(BOUNDARY_SHARE * float(np.hypot(*class_map.shape))))
    known = class_map != IGNORE_LABEL
    counts = np.zeros((2, num_classes), np.int64)
    for k in np.union1d(np.unique(predicted), np.unique(class_map[known])).tolist():
        a, b = (_boundary((values == k) & known, reach) for values in (predicted, class_map))
        counts[:, k] = (a & b).sum(), (a | b).sum()
    return counts


def _boundary(region: np.ndarray, reach: int) -> np.ndarray:
    """The pixels of a region up to `reach` from its edge; the edge of the image counts as one."""
    padded = np.pad(region.astype(np.uint8), 1)
    return region & (cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1] <= reach)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
