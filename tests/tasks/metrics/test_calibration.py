"""Scores made probabilities, and the threshold that serves best."""

import numpy as np
import pytest

from tasks.metrics.calibration import Calibration, fit_calibration, isotonic, reliability
from tasks.metrics.thresholds import GRID, best_thresholds, threshold_table


def overconfident(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    return scores, rng.random(num) < scores**2


def test_reliability_by_hand() -> None:
    found = reliability(np.array([0.05, 0.07, 0.95, 0.99, 1.0]), np.array([0, 0, 1, 1, 0], bool))
    assert found.counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.shares[[0, 9]].tolist() == [0, pytest.approx(2 / 3)]
    gap = (0.95 + 0.99 + 1) / 3 - 2 / 3
    assert found.expected_error == pytest.approx((2 * 0.06 + 3 * gap) / 5)
    assert found.largest_error == pytest.approx(gap)
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, bool)).expected_error)


def test_isotonic_is_the_nearest_rising_sequence() -> None:
    assert isotonic(np.array([1.0, 3, 2, 4]), np.ones(4)).tolist() == [1, 2.5, 2.5, 4]
    assert isotonic(np.array([3.0, 1]), np.array([1.0, 3])).tolist() == [1.5, 1.5]
    sklearn = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(0)
    values, weights = rng.random(50), rng.random(50) + 0.1
    expected = sklearn.IsotonicRegression().fit_transform(np.arange(50), values, sample_weight=weights)
    np.testing.assert_allclose(isotonic(values, weights), expected)


@pytest.mark.parametrize("num", [0, 1, 5, 400])
def test_a_calibration_keeps_the_order_of_all_scores(num: int) -> None:
    calibration = fit_calibration(*overconfident(num, 1))
    scores = np.sort(np.random.default_rng(2).random(20_000).astype(np.float32))
    scores = np.unique(np.concatenate([scores, np.float32([0, 1, 1e-7, 1 - 6e-8])]))
    mapped = calibration(scores)
    assert (np.diff(mapped) > 0).all() and mapped[0] >= 0 and mapped[-1] <= 1
    again = Calibration.of(calibration.to_dict())
    np.testing.assert_array_equal(again(scores), mapped)


def test_calibration_lowers_the_error_on_other_data() -> None:
    calibration = fit_calibration(*overconfident(3000, 0))
    scores, is_right = overconfident(3000, 1)
    before = reliability(scores, is_right).expected_error
    assert before > 0.12
    assert reliability(calibration(scores), is_right).expected_error < 0.03


@pytest.mark.parametrize("values", [([0, 1], [1, 0]), ([0], [0]), ([0, 0.5], [0, np.nan]), ([0, 1], [0, 2])])
def test_what_is_no_calibration(values) -> None:
    with pytest.raises(ValueError, match="two rising lists"):
        Calibration(*map(np.array, values))


def test_thresholds_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.6, 0.4, 0.3])
    is_right = np.array([1, 1, 0, 1, 0], bool)
    table = threshold_table(scores, is_right, np.zeros(5, int), np.full(5, 0.75), np.array([4]))
    at = {float(value): place for place, value in enumerate(GRID)}
    assert table.right[0, [at[0.35], at[0.5], at[0.85]]].tolist() == [3, 2, 1]
    assert table.false[0, [at[0.2], at[0.5], at[0.7]]].tolist() == [2, 1, 0]
    assert table.f1[0, at[0.5]] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert table.lrp[0, at[0.5]] == pytest.approx((2 * 0.25 / 0.5 + 1 + 2) / (2 + 1 + 2))
    # F1: 6/8 from 0.3 to 0.4, 4/6 above 0.6; the middle of the best run.
    assert best_thresholds(table)[0] == pytest.approx(0.35)
    assert best_thresholds(table, "precision", 1.0)[0] == pytest.approx(0.61)
    assert best_thresholds(table, "recall", 0.7)[0] == pytest.approx(0.4)


def test_a_rare_class_leans_on_all() -> None:
    rng = np.random.default_rng(0)
    scores, categories = rng.random(2000), np.zeros(2000, int)
    is_right = rng.random(2000) < scores
    scores, categories = np.append(scores, 0.05), np.append(categories, 1)
    is_right = np.append(is_right, True)
    table = threshold_table(scores, is_right, categories, np.ones(2001), np.array([1200, 1, 0]))
    common, rare, absent = best_thresholds(table)
    assert abs(rare - common) < 0.05 and absent == common


@pytest.mark.parametrize(("goal", "wanted"), [("f2", 0.9), ("recall", 0.0), ("precision", 1.1)])
def test_wishes_that_mean_nothing(goal, wanted) -> None:
    table = threshold_table(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), np.zeros(0), np.array([1]))
    with pytest.raises(ValueError, match="goal=f2 is unknown|wanted="):
        best_thresholds(table, goal, wanted)
