"""The metric reads the truth itself, in original pixels, and writes its tables."""

import csv
import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.contracts import Batch
from tasks.data.annotations.class_maps import ClassMaps
from tasks.metrics.semantic_segmentation import SemanticSegmentationMetric
from tasks.semantic_segmentation.task import iou_table
from tasks.targets import IGNORE_LABEL

NAMES = ["sky", "sea", "ship"]
TRUTH = [
    np.array([[0, 0, 1], [1, 1, IGNORE_LABEL]], np.uint8),
    np.array([[1, 1]], np.uint8),  # another size
]


def class_maps(truth: list[np.ndarray]) -> ClassMaps:
    return ClassMaps(
        class_names=NAMES,
        category_ids=np.arange(3),
        image_ids=np.arange(len(truth)) + 70,
        file_names=np.array([b"a.png"] * len(truth)),
        read=lambda index: truth[index],
    )


def batch(*image_ids: int) -> Batch:
    count = len(image_ids)
    return Batch(
        images=torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        sizes=torch.ones(count, 2, dtype=torch.int64),
        original_sizes=torch.ones(count, 2, dtype=torch.int64),
        image_ids=torch.tensor(image_ids),
        boxes=torch.zeros(count, 0, 4),
        labels=torch.zeros(count, 0, dtype=torch.int64),
        is_crowd=torch.zeros(count, 0, dtype=torch.bool),
    )


def filled() -> SemanticSegmentationMetric:
    metric = SemanticSegmentationMetric(class_maps(TRUTH))
    found = [torch.tensor([[1, 0]]), torch.tensor([[0, 1, 1], [1, 0, 0]])]
    metric.update([found[0].byte(), found[1].byte()], batch(71, 70))
    return metric


def test_one_confusion_matrix_over_all_pixels_by_hand() -> None:
    numbers = filled().compute()
    # sky: 1 right of 2 true and 3 found; sea: 3 right of 5 true and 4 found; ship nowhere
    assert numbers["iou/sky"] == pytest.approx(1 / 4)
    assert numbers["iou/sea"] == pytest.approx(3 / 6)
    assert np.isnan(numbers["iou/ship"])
    assert numbers["mean_iou"] == pytest.approx((1 / 4 + 3 / 6) / 2)
    assert numbers["pixel_accuracy"] == pytest.approx(4 / 7)


def test_tables(tmp_path: Path) -> None:
    metric = filled()
    metric.compute()
    metric.write_results(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["confusion.csv", "iou.csv"]
    with open(tmp_path / "confusion.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["true class", *NAMES],
            ["sky", "1", "1", "0"],
            ["sea", "2", "3", "0"],
            ["ship", "0", "0", "0"],
        ]
    with open(tmp_path / "iou.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert [row["pixels"] for row in rows] == ["2", "5", "0"]
    assert float(rows[0]["recall"]) == pytest.approx(1 / 2)
    assert float(rows[0]["precision"]) == pytest.approx(1 / 3)
    assert rows[2]["iou"] == "nan"


def test_every_image_once() -> None:
    metric = filled()
    metric.update([torch.zeros(1, 2, dtype=torch.uint8)], batch(71))
    with pytest.raises(ValueError, match=r"1 seen more than once \(image ids 71\)"):
        metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match="2 never seen"):
        metric.compute()


def test_memory_stays_flat_over_images() -> None:
    truth = np.zeros((100, 100), np.uint8)
    metric = SemanticSegmentationMetric(class_maps([truth] * 400))
    found = [torch.zeros(100, 100, dtype=torch.uint8)]
    metric.update(found, batch(70))
    gc.collect()
    tracemalloc.start()
    for image in range(1, 400):
        metric.update(found, batch(70 + image))
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 400_000  # an id for each image; the maps would be 4 MB
    assert metric.compute()["mean_iou"] == 1


def test_table_for_the_terminal() -> None:
    numbers = {
        "mean_iou": 0.5, "pixel_accuracy": 0.75, "iou/sky": 0.25, "iou/a long name": float("nan"), "iou/sea": 1.0,
    }  # fmt: skip
    lines = iou_table(numbers, width=60).splitlines()
    assert lines[0].split() == ["mean", "IoU", "50.000", "%"]
    assert lines[-2:] == [
        " sky           25.000 %   sea          100.000 %",
        " a long name        -  ",
    ]
