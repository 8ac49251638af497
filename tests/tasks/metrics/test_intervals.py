"""Numbers with weighted images, and the intervals made of them."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from coco_cases import random_annotations
from simulated_detector import simulated_detections, simulated_truth
from test_coco_metric import fed

from tasks.metrics.bootstrap import interval, intervals, resample_weights, student_quantile
from tasks.metrics.coco import CocoMetric
from tasks.metrics.matches import match
from tasks.metrics.outcomes import (
    LabelOutcomes,
    ObjectOutcomes,
    PixelOutcomes,
    read_outcomes,
    write_outcomes,
)
from tasks.metrics.weighted_precision import precision_curves


def outcomes(num_images: int, seed: int, skill: float = 0.0) -> ObjectOutcomes:
    rng = np.random.default_rng(seed)
    truth = simulated_truth(rng, num_images)
    return ObjectOutcomes({"": match(truth, simulated_detections(rng, truth, skill))}, ["a", "b"])


@pytest.mark.parametrize("seed", range(12))
def test_weights_of_one_give_the_arrays_and_numbers_of_coco_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(n) for n in rng.integers((1, 1, 1), (20, 6, 15)))
    metric = fed(CocoMetric(random_annotations(rng, *shape), backend="pycocotools"), rng, most=40)
    precision, _ = metric.precision_and_recall()
    found = metric.outcomes()
    assert np.array_equal(precision_curves(found.matches[""]), precision[..., 2])
    numbers = metric.compute()
    weighted = found.weighted(np.ones((1, found.num_images), np.int32))
    assert weighted.keys() == numbers.keys()
    for name, value in numbers.items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_an_image_of_weight_two_counts_as_two_images() -> None:
    rng = np.random.default_rng(3)
    truth = simulated_truth(rng, 12)
    found = simulated_detections(rng, truth)
    weights = rng.integers(0, 4, 12)
    copies = np.repeat(np.arange(12), weights)

    def drawn(items, images):
        rows = [np.flatnonzero(images == image) for image in copies]
        new = np.repeat(np.arange(len(copies)), [len(r) for r in rows])
        return np.concatenate(rows), new

    from dataclasses import replace

    rows, images = drawn(truth, truth.images)
    many = replace(
        truth,
        num_images=len(copies),
        images=images,
        categories=truth.categories[rows],
        boxes=truth.boxes[rows],
        areas=truth.areas[rows],
        is_crowd=truth.is_crowd[rows],
        ids=np.arange(1, len(rows) + 1),
    )
    rows, images = drawn(found, found.images)
    many_found = replace(
        found,
        images=images,
        categories=found.categories[rows],
        boxes=found.boxes[rows],
        scores=found.scores[rows],
    )
    by_weight = ObjectOutcomes({"": match(truth, found)}, ["a", "b"]).weighted(weights[None])
    by_copies = ObjectOutcomes({"": match(many, many_found)}, ["a", "b"]).weighted(
        np.ones((1, len(copies)), np.int32)
    )
    for name in by_weight:
        assert by_weight[name][0] == pytest.approx(by_copies[name][0], abs=1e-12, nan_ok=True), name


def test_threads_and_blocks_change_nothing() -> None:
    found = outcomes(40, 1)
    weights = resample_weights(40, 50)
    one, two = found.weighted(weights), found.weighted(weights, threads=2)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
        np.testing.assert_array_equal(one[name][7:8], found.weighted(weights[7:8])[name])


@pytest.mark.slow
def test_intervals_hold_the_true_value_as_often_as_they_say() -> None:
    """200 data sets of 60 images, whose AP on the whole population is known."""
    everything = outcomes(40_000, 999)
    true = everything.weighted(np.ones((1, 40_000), np.int32))
    held: dict[str, list[bool]] = {}
    for seed in range(200):
        found = intervals(outcomes(60, seed), resamples=300, seed=seed)
        for name, (low, high) in found.items():
            held.setdefault(name, []).append(low <= true[name][0] <= high)
    for name in ("AP", "AP50", "AR_100"):
        assert 0.90 <= np.mean(held[name]) <= 0.98, (name, np.mean(held[name]))


def test_accuracies_and_overlaps_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    best = np.array([[0, 1], [1, 0], [1, 0], [1, 0], [0, 1]])
    found = LabelOutcomes(labels, best, np.ones(5, np.float32), ["a", "b", "never"])
    numbers = found.weighted(np.array([[1, 1, 1, 1, 1], [2, 0, 0, 0, 1], [0, 0, 1, 1, 0]]))
    assert numbers["top1"].tolist() == pytest.approx([3 / 5, 2 / 3, 1])
    assert numbers["top5"].tolist() == [1, 1, 1]
    assert numbers["mean_class_accuracy"].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 1 / 2, 1])
    assert numbers["accuracy/a"].tolist() == pytest.approx([1 / 2, 1, np.nan], nan_ok=True)
    assert np.isnan(numbers["accuracy/never"]).all()

    right, true, taken = np.array([[[3, 1], [0, 4]], [[4, 2], [1, 4]], [[5, 1], [0, 5]]])
    numbers = PixelOutcomes(right, true, taken, ["a", "b"]).weighted(np.array([[1, 1], [2, 0]]))
    assert numbers["iou/a"].tolist() == pytest.approx([3 / 7, 6 / 12])
    assert numbers["iou/b"].tolist() == pytest.approx([5 / 7, 2 / 4])
    assert numbers["mean_iou"].tolist() == pytest.approx([(3 / 7 + 5 / 7) / 2, 1 / 2])
    assert numbers["pixel_accuracy"].tolist() == pytest.approx([8 / 11, 8 / 12])


def test_few_images_and_rare_things_have_no_interval() -> None:
    assert intervals(outcomes(1, 0)) == {}
    found = outcomes(60, 0)
    rare = intervals(found)
    assert "AP_small" not in rare  # none is small
    assert "AP" in rare
    assert np.isnan(interval(np.full(13, np.nan), 60)).all()


def test_student_quantile_is_the_tables() -> None:
    for freedom, wanted in ((10, 2.228), (30, 2.042), (86, 1.988), (10_000, 1.960)):
        assert student_quantile(0.975, freedom) == pytest.approx(wanted, abs=1e-3)


def test_outcomes_come_back_from_their_file(tmp_path: Path) -> None:
    found = outcomes(30, 4)
    ids = np.arange(30) * 3
    write_outcomes(tmp_path, found, ids, data="0123", split="test")
    again = read_outcomes(tmp_path)
    assert (again.data, again.split) == ("0123", "test") and np.array_equal(again.image_ids, ids)
    weights = resample_weights(30, 20)
    before, after = found.weighted(weights), again.outcomes.weighted(weights)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", b"\x93NUMPY"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(ValueError, match="has no outcomes.npz, which training and evaluation leave"):
        read_outcomes(tmp_path)
    (tmp_path / "outcomes.npz").write_bytes(damage)
    with pytest.raises(ValueError, match="outcomes.npz cannot be read .*vertebra report"):
        read_outcomes(tmp_path)
