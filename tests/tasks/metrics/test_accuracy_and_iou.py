import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.metrics.accuracy import AccuracyMetric
from tasks.metrics.iou import IoUMetric

NAMES = ["a", "b", "c", "d", "e", "f", "g"]


def test_accuracies_by_hand():
    metric = AccuracyMetric(NAMES, np.arange(4))
    scores = torch.tensor(
        [
            [9.0, 8, 7, 6, 5, 4, 3],  # a, right
            [9.0, 8, 7, 6, 5, 4, 3],  # e, the fifth
            [9.0, 8, 7, 6, 5, 4, 3],  # f, the sixth
            [1.0, 9, 7, 6, 5, 4, 3],  # b, right
        ]
    )
    labels = torch.tensor([0, 4, 5, 1])
    metric.update(scores[:3], labels[:3], torch.tensor([0, 1, 2]))
    metric.update(scores[3:], labels[3:], torch.tensor([3]))
    numbers = metric.compute()
    assert numbers["top1"] == 0.5
    assert numbers["top5"] == 0.75
    assert numbers["mean_class_accuracy"] == 0.5
    assert [numbers[f"accuracy/{name}"] for name in "abef"] == [1, 1, 0, 0]
    assert math.isnan(numbers["accuracy/c"])
    expected = np.zeros((7, 7), np.int64)
    expected[0, 0] = expected[4, 0] = expected[5, 0] = expected[1, 1] = 1
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)


def test_equal_scores_are_no_hit_for_every_class():
    metric = AccuracyMetric(NAMES, np.arange(7))
    metric.update(torch.zeros(7, 7), torch.arange(7), torch.arange(7))
    assert metric.compute()["top1"] == 1 / 7
    assert metric.compute()["top5"] == 5 / 7


def test_iou_by_hand():
    metric = IoUMetric(["sky", "sea", "sand"], np.array([8, 9]))
    metric.update(
        torch.tensor([[[0, 0, 1], [1, 1, 0]]]),
        torch.tensor([[[0, 1, 1], [1, 255, 255]]], dtype=torch.uint8),
        torch.tensor([8]),
    )
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), torch.tensor([9]))
    np.testing.assert_array_equal(metric.confusion_matrix(), [[2, 1, 0], [1, 2, 0], [0, 0, 0]])
    numbers = metric.compute()
    assert numbers["iou/sky"] == numbers["iou/sea"] == numbers["mean_iou"] == 0.5
    assert numbers["pixel_accuracy"] == pytest.approx(4 / 6)
    assert math.isnan(numbers["iou/sand"])


def test_a_class_that_is_only_predicted_counts_as_zero():
    metric = IoUMetric(["sky", "sea"], np.array([1]))
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), torch.tensor([1]))
    assert metric.compute() == {"mean_iou": 0.25, "pixel_accuracy": 0.5, "iou/sky": 0.5, "iou/sea": 0.0}


def test_nothing_gives_nan():
    assert all(math.isnan(value) for value in AccuracyMetric(NAMES, np.zeros(0, int)).compute().values())
    metric = IoUMetric(["sky"], np.array([1]))
    metric.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255), torch.tensor([1]))
    assert all(math.isnan(value) for value in metric.compute().values())


def test_reset_forgets():
    metric = AccuracyMetric(NAMES, np.arange(1))
    metric.update(torch.eye(7)[:1], torch.tensor([1]), torch.tensor([0]))
    metric.reset()
    metric.update(torch.eye(7)[:1], torch.tensor([0]), torch.tensor([0]))
    assert metric.compute()["top1"] == 1


def test_each_image_exactly_once():
    metric = AccuracyMetric(NAMES, np.arange(3))
    metric.update(torch.eye(7)[:2], torch.tensor([0, 1]), torch.tensor([0, 0]))
    with pytest.raises(
        ValueError, match=r"2 never seen \(image ids 1, 2\); 1 seen more than once \(image ids 0\)"
    ):
        metric.compute()


def test_labels_beyond_the_classes():
    metric = IoUMetric(["sky", "sea"], np.array([1]))
    with pytest.raises(
        ValueError, match="the data set holds label 2, but with 2 classes labels go from 0 to 1"
    ):
        metric.update(torch.tensor([[[0]]]), torch.tensor([[[2]]]), torch.tensor([1]))
    with pytest.raises(ValueError, match="the model predicts label -1"):
        metric.update(torch.tensor([[[-1]]]), torch.tensor([[[1]]]), torch.tensor([1]))
    with pytest.raises(ValueError, match="it has diverged"):
        AccuracyMetric(NAMES, np.arange(1)).update(
            torch.full((1, 7), math.nan), torch.zeros(1), torch.zeros(1)
        )


RANK = """
import sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from tasks.metrics.accuracy import AccuracyMetric
from tasks.metrics.iou import IoUMetric
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
ids = torch.arange(3)[rank::2]
accuracy = AccuracyMetric(list("abcdefg"), range(3))
accuracy.update(torch.eye(7)[ids], torch.tensor([0, 6, 2])[ids], ids)
iou = IoUMetric(["sky", "sea"], range(3))
iou.update(torch.tensor([[[0, 0]], [[0, 1]], [[1, 1]]])[ids], torch.tensor([[[0, 1]]] * 3)[ids], ids)
print(accuracy.compute()["top1"], accuracy.compute()["top5"], iou.compute())
dist.destroy_process_group()
"""


def test_two_ranks_give_the_numbers_of_one(tmp_path):
    root = str(Path(__file__).parents[3])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(rank), str(tmp_path / "store"), root],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    # Right: sky 2 of 3, sea 2 of 3; union 4 each.
    numbers = {"mean_iou": 0.5, "pixel_accuracy": 4 / 6, "iou/sky": 0.5, "iou/sea": 0.5}
    assert outputs == [f"{2 / 3} {2 / 3} {numbers}\n"] * 2
