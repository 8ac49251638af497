"""The page's sections on a classifier: what it takes for what, how sure it is, and its most confident mistakes."""

from collections.abc import Callable, Mapping

import numpy as np

from tasks.metrics.bootstrap import Interval, bracket
from tasks.metrics.outcomes import LabelOutcomes
from tasks.report.objects import calibration_section, confusion_section
from tasks.report.page import Section, Table
from tasks.report.pictures import encoded, side_by_side
from tasks.visualization.bars import draw_best


def label_sections(
    outcomes: LabelOutcomes,
    numbers: Mapping[str, float],
    intervals: Mapping[str, Interval],
    read: Callable[[int], np.ndarray] | None,
    file_name: Callable[[int], str],
    num_pictures: int,
) -> list[Section]:
    """All sections; `read` gives the image of a place in order of ids, None where there are none to be had."""
    names, labels, best = list(outcomes.class_names), outcomes.labels, outcomes.best[:, 0]
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, (labels, best), 1)
    is_right = labels == best
    counts = matrix.sum(axis=1)
    rows = []
    for k in sorted(range(len(names)), key=lambda k: numbers.get(f"accuracy/{names[k]}", 2.0)):
        value = numbers.get(f"accuracy/{names[k]}", float("nan"))
        sure = bracket(intervals.get(f"accuracy/{names[k]}")).strip()
        rows.append((names[k], "–" if value != value else f"{value:.3f}", sure, int(counts[k])))
    header = ("class", "accuracy", "95 %", "images")
    wrong = np.flatnonzero(~is_right)
    wrong = wrong[np.argsort(-outcomes.confidences[wrong], kind="stable")]
    pictures = []
    for image in wrong[:num_pictures].tolist() if read is not None else []:
        assert read is not None
        shown = draw_best(
            read(image),
            [names[best[image]]],
            best[image : image + 1],
            outcomes.confidences[image : image + 1],
        )
        words = (
            f"{file_name(image)}: taken for {names[best[image]]} with {outcomes.confidences[image]:.3f}, "
            f"labelled {names[labels[image]]}"
        )
        pictures.append(encoded(side_by_side(shown), words))
    mistakes = [
        (file_name(i), names[labels[i]], names[best[i]], f"{outcomes.confidences[i]:.3f}")
        for i in wrong[:50].tolist()
    ]
    mistake_header = ("image", "labelled", "taken for", "probability")
    return [
        Section("Accuracy by class", tables=[Table("The hardest first", header, rows)]),
        confusion_section(matrix, names, "Images; rows are true, columns what they were taken for."),
        calibration_section(
            outcomes.confidences.astype(np.float64), is_right, "that the best class is the label"
        ),
        Section(
            "The most confident mistakes",
            "Labels that are wrong show up here as well.",
            pictures=pictures,
            tables=[Table("Mistakes", mistake_header, mistakes)] if mistakes else [],
            values={"mistakes": [list(row) for row in mistakes]},
        ),
    ]
