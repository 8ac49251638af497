"""Which annotations are probably wrong: where a model that has not learnt from them is sure of something else.

Four ways to be wrong, each with a score in 0 … 1 by which all are ranked: an object that nobody has annotated, an
annotation of nothing, the wrong class, and a box in the wrong place (as in Tkachenko et al., 2023, "ObjectLab", whose
scores are other ones). The model must not have learnt from the annotations that it judges, or it repeats their errors.

Legend, as in `matches.py`: N detections, M objects, K classes
"""

from dataclasses import dataclass

import numpy as np

from tasks.metrics.average_precision import GroundTruth, Predictions
from tasks.metrics.matches import box_overlaps, rows_by_image

WAYS = ("missing", "spurious", "class", "shifted")
GOOD_PLACE = 0.8
"""IoU from which a box needs no correction."""
_ON_IT = 0.5
_NEAR = 0.1
_PLACE_POWER = 0.35
"""Turns how far off a box is into a doubt that ranks beside those about classes; chosen on corrupted labels."""


@dataclass(frozen=True)
class Suspect:
    """One annotation, or one that is missing."""

    way: str
    """Of `WAYS`."""
    doubt: float
    """0 … 1, the higher the more probably wrong."""
    image: int
    """Place of the image among the sorted ids."""
    object: int
    """Row of the annotation; -1 of a missing one."""
    detection: int
    """Row of the detection that says otherwise; -1 where none does."""


def find_suspects(truth: GroundTruth, found: Predictions) -> list[Suspect]:
    """All annotations about which `found`, with scores that are probabilities, raises a doubt, the strongest first.

    At most one suspect for each annotation, and one missing one for each detection that overlaps nothing.
    """
    suspects: list[Suspect] = []
    sides = (rows_by_image(side.images, truth.num_images) for side in (truth, found))
    for image, (objects, rows) in enumerate(zip(*sides, strict=True)):
        suspects += _of_image(truth, found, image, objects, rows)
    return sorted(suspects, key=lambda suspect: -suspect.doubt)


def _of_image(
    truth: GroundTruth, found: Predictions, image: int, objects: np.ndarray, rows: np.ndarray
) -> list[Suspect]:
    crowd = truth.is_crowd[objects]
    iou = box_overlaps(found.boxes[rows][:, None], truth.boxes[objects], crowd)  # (n, m)
    scores = found.scores[rows]
    same = found.categories[rows][:, None] == truth.categories[objects]
    suspects = []
    # Where the model finds what else is annotated in the image, that it finds nothing here says more.
    own_scores = (scores[:, None] * ((iou >= _ON_IT) & same)).max(axis=0, initial=0.0)
    context = (own_scores.sum() - own_scores + 0.5) / max(1, len(objects))
    for column in np.flatnonzero(~crowd).tolist():
        on_it = iou[:, column] >= _ON_IT
        own = float(own_scores[column])
        others = scores * (on_it & ~same[:, column])
        near = scores * ((iou[:, column] >= _NEAR) & same[:, column])
        # A detection that lies on another annotation more speaks for that one.
        is_mine = iou.argmax(axis=1) == column if len(rows) else np.zeros(0, bool)
        most = max(own, float((np.maximum(others, near) * is_mine).max(initial=0.0)))
        doubts = {"spurious": ((1 - most) * float(context[column]) ** 0.6, -1)}
        if len(rows):
            best = int(others.argmax())
            doubts["class"] = (max(0.0, float(others[best]) - own), int(rows[best]))
            # The most confident detection near it that is nobody else's, and how far off the annotation is.
            free = near * is_mine
            best = int(free.argmax())
            off = max(0.0, GOOD_PLACE - float(iou[best, column])) / GOOD_PLACE
            doubts["shifted"] = (float(free[best]) * off**_PLACE_POWER, int(rows[best]))
        way = max(doubts, key=lambda name: doubts[name][0])
        suspects.append(Suspect(way, *doubts[way][:1], image, int(objects[column]), doubts[way][1]))
    # Of detections on one another the best stands for what is missing there.
    taken = np.zeros(len(rows), bool)
    for place in np.argsort(-scores, kind="stable").tolist():
        if taken[place] or (len(objects) and iou[place].max() >= _NEAR):
            continue
        mine = box_overlaps(found.boxes[rows], found.boxes[rows[place]], np.zeros(len(rows), bool))
        taken |= mine >= _ON_IT
        suspects.append(Suspect("missing", float(scores[place]), image, -1, int(rows[place])))
    return suspects
