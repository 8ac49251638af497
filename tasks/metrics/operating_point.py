"""`OperatingPoint`: from which score an object of each class is worth showing, and what scores are worth as
probabilities; fitted on a split (`vertebra tune`), kept in the model file, used wherever it predicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tasks.metrics.calibration import Calibration, fit_calibration, reliability
from tasks.metrics.error_split import IGNORED, RIGHT, ErrorSplit
from tasks.metrics.matches import Matches
from tasks.metrics.thresholds import GRID, Goal, ThresholdTable, best_thresholds

KEY = "operating_point"
"""In a header's `provenance`, which files of every version may hold."""
_MOST = 1000


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds are of the network's own scores; what is shown has calibrated ones."""

    thresholds: np.ndarray
    """(K,) float64 in 0 … 1, by label."""
    calibration: Calibration
    about: dict[str, Any] = field(default_factory=dict)
    """What it was fitted on and for, and what it gave there; plain values."""

    def is_shown(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Bool (N,): which of the network's scores reach the thresholds of their classes."""
        return scores >= self.thresholds[labels]

    def applied(self, found: Any) -> Any:
        """The objects of a picture's result that reach the thresholds of their classes, with calibrated scores."""
        shown = found.select(self.is_shown(found.scores, found.labels))
        return replace(shown, scores=self.calibration(shown.scores).astype(np.float32))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a header."""
        return {
            "thresholds": self.thresholds.tolist(),
            "calibration": self.calibration.to_dict(),
            "about": self.about,
        }

    @classmethod
    def in_header(cls, provenance: Mapping[str, Any], num_classes: int) -> "OperatingPoint | None":
        """The one that a model file's header holds; None where it holds none.

        Raises:
            ValueError: it is damaged.
        """
        values = provenance.get(KEY)
        if values is None:
            return None
        try:
            thresholds = np.asarray(values["thresholds"], np.float64)
            knots = values["calibration"]
            if thresholds.shape != (num_classes,) or not ((thresholds >= 0) & (thresholds <= 1)).all():
                raise ValueError(f"{num_classes} thresholds from 0 to 1 are wanted")
            if len(knots["x"]) > _MOST:
                raise ValueError(f"its calibration has more than {_MOST} knots")
            return cls(thresholds, Calibration.of(knots), dict(values.get("about", {})))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the model's operating point is damaged ({error!s:.100}); give score_threshold=0.5, or run "
                "`vertebra tune`"
            ) from None


def fit_operating_point(
    matches: Matches, errors: ErrorSplit, table: ThresholdTable, goal: Goal = "f1", wanted: float = 0.9
) -> OperatingPoint:
    """That which serves `goal` best on the data of `matches`, classes in their order; `about` says what it gives."""
    thresholds = best_thresholds(table, goal, wanted)
    counted = errors.kinds != IGNORED
    scores, is_right = matches.scores[counted], errors.kinds[counted] == RIGHT
    calibration = fit_calibration(scores, is_right)
    about = {
        "goal": goal,
        "f1_at_half": f1_at(table, np.full(len(thresholds), 0.5)),
        "f1": f1_at(table, thresholds),
        "calibration_error_before": reliability(scores, is_right).expected_error,
        "calibration_error": reliability(calibration(scores), is_right).expected_error,
    }
    if goal in ("precision", "recall"):
        about["wanted"] = wanted
    return OperatingPoint(thresholds, calibration, about)


def f1_at(table: ThresholdTable, thresholds: np.ndarray) -> float:
    """Mean over the classes with objects of F1 at these thresholds (K,) of the grid; nan without objects."""
    places = np.searchsorted(GRID, thresholds - 1e-9)
    values = table.f1[np.arange(len(places)), places]
    known = values[table.objects > 0]
    return float(known.mean()) if len(known) else float("nan")
