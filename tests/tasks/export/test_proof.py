"""What counts as the same result, and what does not."""

import numpy as np
import pytest

from tasks.export.proof import Differences, Differs, compare, match_detections

BOXES = np.array([[0, 0, 10, 10], [50, 50, 90, 90], [0, 0, 40, 40]], np.float32)
SCORES = np.array([0.9, 0.8, 0.8], np.float32)
LABELS = np.array([0, 1, 1])


def detections(rows=(0, 1, 2), *, shift=0.0, score=0.0, label=0) -> dict[str, np.ndarray]:
    rows = list(rows)
    return {
        "boxes": BOXES[rows] + shift,
        "scores": SCORES[rows] + np.float32(score),
        "labels": LABELS[rows] + label,
    }


def test_order_of_ties_does_not_count_and_differences_are_told() -> None:
    seen = Differences()
    pairs = match_detections(detections(), detections((0, 2, 1), shift=1e-3, score=5e-5), seen, "", most=10)
    assert pairs == [(0, 0), (1, 2), (2, 1)]
    assert seen.detections == 3 and 4e-5 < seen.score < 6e-5


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (detections((0, 1)), "label 1, score 0.80000 and box .* is not in the file's result"),
        (detections((0, 1, 2, 2)), "finds 1 detections that the model does not"),
        (detections(score=2e-4), "is not in the file's result"),
        (detections(shift=0.1), "is not in the file's result"),
        (detections(label=1), "is not in the file's result"),
    ],
)
def test_what_differs(found: dict, message: str) -> None:
    with pytest.raises(Differs, match=message):
        match_detections(detections(), found, Differences(), "here", most=10)


def test_at_the_cut_one_of_equal_scores_may_go() -> None:
    match_detections(detections((0, 1)), detections((0, 2)), Differences(), "", most=2)
    with pytest.raises(Differs):
        match_detections(detections((0, 1)), detections((0, 2)), Differences(), "", most=3)


def test_outputs_of_another_shape_or_kind() -> None:
    logits = np.zeros((2, 3), np.float32)
    compare({"logits": logits}, {"logits": logits + 5e-5}, Differences(), "")
    for wrong in ({"logits": logits[:1]}, {}, {"logits": logits + 1e-3}, {"logits": logits + np.nan}):
        with pytest.raises(Differs):
            compare({"logits": logits}, wrong, Differences(), "here")
