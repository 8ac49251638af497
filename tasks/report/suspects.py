"""The annotations that are most probably wrong, by what a detector found on a split that it has not learnt from."""

from collections.abc import Callable

from tasks.metrics.average_precision import Predictions
from tasks.metrics.calibration import fit_calibration
from tasks.metrics.error_split import IGNORED, RIGHT, ErrorSplit, error_split
from tasks.metrics.suspects import Suspect, find_suspects
from tasks.report.objects import ObjectResults
from tasks.report.page import Section, Table

NUM_LISTED = 20


def rank(results: ObjectResults, errors: ErrorSplit | None = None) -> list[Suspect]:
    """All suspects, by scores that were made probabilities first."""
    errors = errors or error_split(results.truth, results.found, results.matches)
    counted = errors.kinds != IGNORED
    calibration = fit_calibration(results.matches.scores[counted], errors.kinds[counted] == RIGHT)
    found = results.found
    calibrated = Predictions(
        found.images, found.categories, found.boxes, calibration(found.scores), found.masks
    )
    return find_suspects(results.truth, calibrated)


def suspects_section(results: ObjectResults, file_name: Callable[[int], str]) -> Section:
    """The first of them as a table."""
    truth, found, names = results.truth, results.found, results.class_names
    rows = []
    for suspect in rank(results)[:NUM_LISTED]:
        is_known, is_found = suspect.object >= 0, suspect.detection >= 0
        box = truth.boxes[suspect.object] if is_known else found.boxes[suspect.detection]
        says = names[int(found.categories[suspect.detection])] if is_found else "nothing"
        label = names[int(truth.categories[suspect.object])] if is_known else ""
        place = " ".join(f"{value:.0f}" for value in box)
        rows.append((file_name(suspect.image), suspect.way, f"{suspect.doubt:.3f}", label, says, place))
    header = ("image", "perhaps", "doubt", "annotated as", "the model says", "x y width height")
    note = (
        "Where the model is sure of something else than what is annotated. It must not have learnt from these images; "
        "`vertebra suspects` lists more, with pictures, and by folds for what a model has learnt from."
    )
    return Section(
        "Annotations to look at", note, tables=[Table("The most doubtful", header, rows)] if rows else []
    )
