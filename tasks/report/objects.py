"""The page's sections on a detector: where it finds objects, where it does not, and what that costs.

Legend: N detections, M objects, K classes, I images, as in `tasks/metrics/matches.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.metrics.average_precision import GroundTruth, Predictions
from tasks.metrics.bootstrap import Interval, bracket
from tasks.metrics.calibration import reliability
from tasks.metrics.error_split import (
    FOUND,
    IGNORED,
    KINDS,
    MISSED,
    NOT_COUNTED,
    RIGHT,
    ErrorSplit,
    error_split,
)
from tasks.metrics.matches import Matches, Ranges, match
from tasks.metrics.outcomes import mean_of_known
from tasks.metrics.thresholds import GRID, ThresholdTable, best_thresholds, threshold_table
from tasks.metrics.weighted_precision import RECALLS, precision_curves, weighted_precision
from tasks.report.charts import bar_chart, line_chart
from tasks.report.page import Picture, Section, Table
from tasks.report.pictures import encoded, side_by_side
from tasks.visualization.boxes import draw_detections, draw_outcomes

MAX_CLASSES = 25
"""As many rows and columns of a confusion matrix as can be read."""
SHOWN_SCORE = 0.3
"""Detections below are not drawn: each image has a hundred of them."""
SLICES = {
    "aspect": {"tall, w/h below 1/2": (0, 0.5), "1/2 to 2": (0.5, 2), "wide, above 2": (2, np.inf)},
    "place": {"middle": (0, 1 / 3), "between": (1 / 3, 2 / 3), "edge": (2 / 3, 10)},
}
CROWDING = {"up to 5 objects": (0, 5), "6 to 20": (6, 20), "more than 20": (21, np.inf)}

MAX_EXPLAINED = 60
"""Objects that were not found of which the page says why."""
Explain = Callable[[np.ndarray, np.ndarray, list[str]], list[tuple[str, str]]]
"""From an image uint8 (H, W, 3), boxes (M, 4) xyxy and their classes to the stage of each, and why in words."""


@dataclass(frozen=True)
class ObjectResults:
    """What is to be reported of one kind of outline."""

    name: str
    """boxes or masks."""
    truth: GroundTruth
    found: Predictions
    matches: Matches
    class_names: Sequence[str]
    """(K,) in order of the categories."""
    sizes: np.ndarray | None
    """(I, 2): (height, width), images in order of their ids."""


def object_sections(
    results: ObjectResults,
    numbers: Mapping[str, float],
    intervals: Mapping[str, Interval],
    read: Callable[[int], np.ndarray] | None,
    file_name: Callable[[int], str],
    num_pictures: int,
    explain: Explain | None = None,
) -> list[Section]:
    """All sections; `read` gives the image of a place in order of ids, None where there are none to be had; `explain`
    which stage of the detector lost an object."""
    prefix = "mask_" if results.name == "masks" else ""
    errors = error_split(results.truth, results.found, results.matches)
    table = make_thresholds(results, errors)
    sections = [
        _curves(results),
        _by_class(results, numbers, intervals, prefix),
        _slices(results),
        _errors(errors),
        _confusion(results, errors, float(best_thresholds(table.total())[0])),
        _calibration(results, errors),
        _thresholds(results, table),
        _worst(results, errors, read, file_name, num_pictures),
        _lost(results, errors, read, file_name, num_pictures, explain),
    ]
    for section in sections:
        section.title = f"{section.title} ({results.name})" if results.name == "masks" else section.title
    return sections


def make_thresholds(results: ObjectResults, errors: ErrorSplit) -> ThresholdTable:
    """What each score threshold gives at IoU 0.5, class by class."""
    counted = errors.kinds != IGNORED
    objects = np.bincount(
        results.truth.categories[errors.objects != NOT_COUNTED], minlength=len(results.class_names)
    )
    return threshold_table(
        results.matches.scores[counted],
        errors.kinds[counted] == RIGHT,
        results.matches.categories[counted].astype(np.int64),
        errors.overlaps[counted],
        objects,
    )


def _curves(results: ObjectResults) -> Section:
    curves = precision_curves(results.matches)[..., 0]  # (T, R, K)
    known = (curves > -1).all(axis=(0, 1))
    if not known.any():
        return Section("Precision and recall")
    mean = curves[:, :, known].mean(axis=2)
    lines = {"IoU 0.50": mean[0], "IoU 0.75": mean[5], "mean over 0.50 to 0.95": mean.mean(axis=0)}
    chart = line_chart(
        {name: (RECALLS, values) for name, values in lines.items()},
        title="Precision at each recall, mean over classes",
        x="recall", y="precision", x_range=(0, 1), y_range=(0, 1),
    )  # fmt: skip
    return Section(
        "Precision and recall",
        charts=[chart],
        values={"recall": RECALLS.tolist(), "precision": {name: v.tolist() for name, v in lines.items()}},
    )


def _by_class(
    results: ObjectResults, numbers: Mapping[str, float], intervals: Mapping[str, Interval], prefix: str
) -> Section:
    objects = np.bincount(
        results.truth.categories[~results.truth.is_crowd], minlength=len(results.class_names)
    )
    pairs = np.unique(results.truth.images.astype(np.int64) * len(objects) + results.truth.categories)
    images = np.bincount(pairs % len(objects), minlength=len(objects))
    rows = []
    for k in np.argsort(-objects, kind="stable").tolist():
        name = f"{prefix}AP/{results.class_names[k]}"
        value = numbers.get(name, float("nan"))
        rows.append(
            (
                results.class_names[k],
                _number(value),
                bracket(intervals.get(name)).strip(),
                int(objects[k]),
                int(images[k]),
            )
        )
    return Section(
        "AP by class", tables=[Table("AP by class", ("class", "AP", "95 %", "objects", "images"), rows)]
    )


def _slices(results: ObjectResults) -> Section:
    truth, found = results.truth, results.found
    num_objects, num_found = len(truth.images), len(found.images)
    once = np.ones((1, truth.num_images), np.int32)
    rows: list[tuple[Any, ...]] = []
    kinds = {"size": None, **{name: _measure(name, results) for name in SLICES}}
    for kind, measures in kinds.items():
        if measures is None and kind != "size":
            continue
        if kind == "size":
            matches, names = results.matches, ["all", "small, below 32²", "medium", "large, above 96²"]
        else:
            assert measures is not None
            limits = SLICES[kind]
            inside = [[(v >= low) & (v < high) for low, high in limits.values()] for v in measures]
            everything = [np.ones(num_objects, bool), np.ones(num_found, bool)]
            ranges = Ranges(
                *(np.stack([every, *some]) for every, some in zip(everything, inside, strict=True))
            )
            matches, names = match(truth, found, ranges=ranges), ["all", *limits]
        values = weighted_precision(matches, once)
        for a, name in enumerate(names[1:], start=1):
            ap, ap50 = (mean_of_known(values.precision[0, a, some]) for some in (slice(None), slice(1)))
            count = int((~matches.object_is_ignored[a]).sum())
            if count:
                rows.append(
                    (
                        f"{kind}: {name}",
                        _number(ap),
                        _number(ap50),
                        _number(mean_of_known(values.recall[0, a])),
                        count,
                    )
                )
    per_image = np.bincount(truth.images, minlength=truth.num_images)
    for name, (low, high) in CROWDING.items():
        some = (per_image >= low) & (per_image <= high)
        if some.any():
            values = weighted_precision(results.matches, some[None].astype(np.int32))
            numbers = (
                mean_of_known(values.precision[0, 0]),
                mean_of_known(values.precision[0, 0, :1]),
                mean_of_known(values.recall[0, 0]),
            )
            rows.append((f"crowding: {name}", *map(_number, numbers), int(per_image[some].sum())))
    note = (
        "Objects outside of a part are ignored in it, as COCO ignores those of other sizes. Aspect is width / height, "
        "place the distance of an object's middle from the image's, up to its border; crowding takes whole images."
    )
    header = ("part", "AP", "AP50", "recall", "objects")
    return Section(
        "Where it is good: size, aspect, place, crowding", note, tables=[Table("AP of parts", header, rows)]
    )


def _measure(kind: str, results: ObjectResults) -> tuple[np.ndarray, np.ndarray] | None:
    """What a slice goes by, of objects (M,) and detections (N,)."""
    sides = results.truth, results.found
    if kind == "aspect":
        return tuple(side.boxes[:, 2] / np.maximum(side.boxes[:, 3], 1e-9) for side in sides)  # type: ignore[return-value]
    if results.sizes is None:
        return None
    sizes = results.sizes
    return tuple(  # type: ignore[return-value]
        np.abs((side.boxes[:, :2] + side.boxes[:, 2:] / 2) / sizes[side.images][:, ::-1] - 0.5).max(
            axis=1, initial=0
        )
        * 2
        for side in sides
    )


def _errors(errors: ErrorSplit) -> Section:
    names = [*KINDS, "missed"]
    about = {
        "class": "an object of another class, in its place",
        "localisation": "an object of its class, overlapped by 0.1 to 0.5",
        "both": "an object of another class, overlapped by 0.1 to 0.5",
        "duplicate": "an object that a better detection has found",
        "background": "nothing",
        "missed": "objects for which no class or localisation error stands",
    }
    rows = [(name, errors.counts[name], _number(errors.costs[name]), about[name]) for name in names]
    rows += [
        (name, errors.counts[name], _number(errors.costs[name]), "all of these together")
        for name in ("false positives", "false negatives")
    ]
    chart = bar_chart(
        {name: errors.costs[name] for name in names}, title="AP50 that each kind of error costs"
    )
    note = (
        f"AP50 is {_number(errors.ap50)}. What would mending all errors of one kind, and nothing else, add to it? "
        "After Bolya et al. (2020), TIDE; computed by tasks/metrics/error_split.py. Costs do not add up, as one error "
        "can hide another."
    )
    return Section(
        "What goes wrong",
        note,
        charts=[chart],
        tables=[Table("Errors", ("kind", "count", "AP50 lost", "what it is"), rows)],
        values={"ap50": errors.ap50, "costs": errors.costs, "counts": errors.counts},
    )


def confusion(results: ObjectResults, errors: ErrorSplit, threshold: float) -> np.ndarray:
    """(K + 1, K + 1) int64: true class by row, found by column, of detections that score at least `threshold`; the last
    row is background taken for something, the last column what was not found."""
    matches, num = results.matches, len(results.class_names)
    matrix = np.zeros((num + 1, num + 1), np.int64)
    shown = (matches.scores >= threshold) & (errors.kinds != IGNORED)
    is_right, is_class = errors.kinds == RIGHT, errors.kinds == 0
    true = np.where(is_right | is_class, np.append(results.truth.categories, num)[errors.targets], num)
    np.add.at(matrix, (true[shown], matches.categories[shown]), 1)
    taken = np.zeros(len(results.truth.images), bool)
    taken[errors.targets[shown & (is_right | is_class)]] = True
    left = ~taken & (errors.objects != NOT_COUNTED)
    np.add.at(matrix[:, num], results.truth.categories[left], 1)
    return matrix


def _confusion(results: ObjectResults, errors: ErrorSplit, threshold: float) -> Section:
    matrix = confusion(results, errors, threshold)
    note = (
        f"Detections that score at least {threshold:.2f}, the best for F1 over all classes. Rows are true, columns "
        "found; the last row is background taken for something, the last column what was not found."
    )
    return confusion_section(matrix, [*results.class_names, "background"], note)


def confusion_section(matrix: np.ndarray, names: Sequence[str], note: str) -> Section:
    """A confusion matrix, of many classes the most confused alone."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    most = np.sort(np.argsort(-wrong, kind="stable")[:MAX_CLASSES])
    rows = [(names[k], *matrix[k, most].tolist()) for k in most.tolist()]
    if len(most) < len(names):
        note += f" The {len(most)} most confused of {len(names)}; report.json has all."
    header = ["true \\ found", *(str(names[int(k)]) for k in most.tolist())]
    values = {"names": list(names), "matrix": matrix.tolist()}
    return Section("What is taken for what", note, tables=[Table("Confusion", header, rows)], values=values)


def _calibration(results: ObjectResults, errors: ErrorSplit) -> Section:
    counted = errors.kinds != IGNORED
    return calibration_section(
        results.matches.scores[counted],
        errors.kinds[counted] == RIGHT,
        "IoU 0.5 or more",
        " `vertebra tune` mends it, and stores the map in the model file.",
    )


def calibration_section(
    scores: np.ndarray, is_right: np.ndarray, right_means: str, advice: str = ""
) -> Section:
    """Whether scores are probabilities; `advice` says what mends them."""
    if not len(scores):
        return Section("Are scores probabilities?")
    found = reliability(scores, is_right)
    chart = line_chart(
        {"share that is right": (found.scores, found.shares)},
        title="Share of right ones at each score",
        x="mean score", y="share", x_range=(0, 1), y_range=(0, 1), diagonal=True,
    )  # fmt: skip
    rows = [
        (f"{low:.1f} to {high:.1f}", int(n), _number(score), _number(share))
        for low, high, n, score, share in zip(
            found.edges, found.edges[1:], found.counts, found.scores, found.shares, strict=False
        )
    ]
    note = (
        f"Right means {right_means}. Expected calibration error {found.expected_error:.3f}, largest of a bin "
        f"{found.largest_error:.3f}.{advice}"
    )
    values = {"expected_error": found.expected_error, "largest_error": found.largest_error}
    return Section(
        "Are scores probabilities?",
        note,
        charts=[chart],
        tables=[Table("Reliability", ("score", "count", "mean score", "share right"), rows)],
        values=values,
    )


def _thresholds(results: ObjectResults, table: ThresholdTable) -> Section:
    every = table.total()
    if not every.objects[0]:
        return Section("Which threshold to use")
    rows = [
        (
            f"{GRID[s]:.2f}",
            *(_number(float(v[0, s])) for v in (every.precision, every.recall, every.f1, every.lrp)),
        )
        for s in range(4, len(GRID), 5)
    ]
    best = best_thresholds(table)
    by_class = []
    for k in np.argsort(-table.objects, kind="stable").tolist():
        s = int(np.searchsorted(GRID, best[k] - 1e-9))
        parts = (_number(float(v[k, s])) for v in (table.precision, table.recall, table.f1))
        by_class.append((results.class_names[k], f"{best[k]:.2f}", *parts, int(table.objects[k])))
    lines = {"precision": every.precision[0], "recall": every.recall[0], "F1": every.f1[0]}
    chart = line_chart(
        {name: (GRID, values) for name, values in lines.items()},
        title="All classes together at IoU 0.5", x="score threshold", y="", x_range=(0, 1), y_range=(0, 1),
    )  # fmt: skip
    note = (
        "`vertebra tune` finds one for each class and stores them in the model file. A rare class leans on all. "
        "LRP (Oksuz et al., 2018) is an error: lower is better."
    )
    return Section(
        "Which threshold to use",
        note,
        charts=[chart],
        tables=[
            Table("All classes", ("threshold", "precision", "recall", "F1", "LRP"), rows),
            Table(
                "Best F1 of each class",
                ("class", "threshold", "precision", "recall", "F1", "objects"),
                by_class,
            ),
        ],
        values={"best_f1": dict(zip(results.class_names, best.tolist(), strict=True))},
    )


def image_costs(results: ObjectResults, errors: ErrorSplit) -> np.ndarray:
    """(I,): what is wrong in each image: scores of its false detections, and 1 for each object not found."""
    false = (errors.kinds >= 0).astype(float) * results.matches.scores
    costs = np.bincount(results.matches.images, false, results.truth.num_images)
    lost = (errors.objects != FOUND) & (errors.objects != NOT_COUNTED)
    return costs + np.bincount(results.truth.images[lost], minlength=results.truth.num_images)


def _worst(
    results: ObjectResults,
    errors: ErrorSplit,
    read: Callable[[int], np.ndarray] | None,
    file_name: Callable[[int], str],
    num_pictures: int,
) -> Section:
    costs = image_costs(results, errors)
    order = [i for i in np.argsort(-costs, kind="stable").tolist() if costs[i] > 0]
    pictures = []
    for image in order[:num_pictures] if read is not None else []:
        assert read is not None
        pictures.append(_picture(results, errors, image, read(image), file_name(image), float(costs[image])))
    rows = [(file_name(i), f"{costs[i]:.2f}") for i in order[:50]]
    note = (
        "Left what is annotated, crowds in dots; right what was found: green is right, red is false with its kind of "
        f"error, dashed white was not found. Detections below {SHOWN_SCORE} are not drawn. The cost of an image is the "
        "sum of the scores of its false detections, and 1 for each object that was not found."
    )
    return Section(
        "The worst pictures",
        note,
        pictures=pictures,
        tables=[Table("Images by cost", ("image", "cost"), rows)] if rows else [],
        values={"images": [{"file_name": file_name(i), "cost": float(costs[i])} for i in order[:200]]},
    )


def _lost(
    results: ObjectResults,
    errors: ErrorSplit,
    read: Callable[[int], np.ndarray] | None,
    file_name: Callable[[int], str],
    num_pictures: int,
    explain: Explain | None,
) -> Section:
    """Of the objects of the worst pictures that were not found, which stage lost each."""
    truth, rows = results.truth, []
    lost = np.flatnonzero((errors.objects != FOUND) & (errors.objects != NOT_COUNTED))
    costs = image_costs(results, errors)
    worst = np.argsort(-costs, kind="stable")[:num_pictures]
    for image in worst.tolist() if read is not None and explain is not None else []:
        objects = lost[truth.images[lost] == image][: MAX_EXPLAINED - len(rows)]
        if not len(objects):
            continue
        assert read is not None and explain is not None
        names = [str(results.class_names[k]) for k in truth.categories[objects].tolist()]
        boxes = _corners(truth.boxes[objects])
        for name, box, (stage, words) in zip(names, boxes, explain(read(image), boxes, names), strict=True):
            rows.append((file_name(image), name, " ".join(f"{v:.0f}" for v in box), stage, words))
    counts: dict[str, int] = {}
    for *_, stage, _ in rows:
        counts[stage] = counts.get(stage, 0) + 1
    chart = bar_chart(
        dict(sorted(counts.items(), key=lambda item: -item[1])), title="Objects by what lost them"
    )
    note = (
        f"Objects of the pictures above that no detection of their class overlaps by half, the first {MAX_EXPLAINED}. "
        '"found": a detection is there whose score is taken by another object, or below what AP looks at. `vertebra '
        "explain` says it of any picture."
    )
    header = ("image", "class", "x1 y1 x2 y2", "stage", "why")
    tables = [Table("Objects that were not found", header, rows)] if rows else []
    return Section(
        "Why objects were not found", note, charts=[chart], tables=tables, values={"stages": counts}
    )


def _picture(
    results: ObjectResults, errors: ErrorSplit, image: int, pixels: np.ndarray, name: str, cost: float
) -> Picture:
    truth, matches = results.truth, results.matches
    objects = np.flatnonzero(truth.images == image)
    rows = np.flatnonzero(
        (matches.images == image) & (matches.scores >= SHOWN_SCORE) & (errors.kinds != IGNORED)
    )
    nothing = np.zeros(0)
    names = list(results.class_names)
    corners = _corners(truth.boxes[objects])
    left = draw_detections(
        pixels, np.zeros((0, 4)), nothing, nothing, names, gt_boxes=corners, gt_labels=truth.categories[objects],
        gt_is_crowd=truth.is_crowd[objects],
    )  # fmt: skip
    found = _corners(results.found.boxes[matches.rows[rows]])
    kinds = errors.kinds[rows]
    captions = [
        f"{names[k]} {score:.2f}" + ("" if kind == RIGHT else f" {KINDS[kind]}")
        for k, score, kind in zip(
            matches.categories[rows].tolist(), matches.scores[rows].tolist(), kinds, strict=True
        )
    ]
    seen = np.zeros(len(truth.images), bool)
    seen[errors.targets[rows[kinds == RIGHT]]] = True
    lost = objects[~seen[objects] & ~truth.is_crowd[objects]]
    right = draw_outcomes(pixels, found, captions, kinds == RIGHT, _corners(truth.boxes[lost]))
    num_missed = int((errors.objects[objects] == MISSED).sum())
    words = (
        f"{name}: {len(objects)} annotated, {int((kinds == RIGHT).sum())} right, {int((kinds >= 0).sum())} false, "
        f"{len(lost)} not found above {SHOWN_SCORE} ({num_missed} missed altogether); cost {cost:.2f}"
    )
    return encoded(side_by_side(left, right), words)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
