"""`metric.backend` on the command line: who scores, said in the report, and refused before anything runs."""

import pytest

from tasks.classification.task import ClassificationTask
from tasks.cli.compose import compose
from tasks.detection.task import DetectionTask
from tasks.instance_segmentation.task import InstanceSegmentationTask


@pytest.mark.parametrize("root", ["train", "evaluate"])
def test_the_key_is_known_and_a_misspelt_one_is_not(root: str) -> None:
    words = ["checkpoint=x"] if root == "evaluate" else []
    assert compose(root, [*words, "metric.backend=pycocotools"]).metric.backend == "pycocotools"
    with pytest.raises(ValueError, match=r"unknown setting 'metric.backnd'.*metric.backend"):
        compose(root, [*words, "metric.backnd=auto"])


@pytest.mark.parametrize("task", [DetectionTask, InstanceSegmentationTask])
def test_what_can_score_is_checked_at_once(task: type[DetectionTask]) -> None:
    assert task.check_metric({"backend": "pycocotools"}) == {"backend": "pycocotools"}
    assert task.check_metric(None) == {}
    with pytest.raises(
        ValueError, match="metric backend 'coco' is unknown: take auto, hotcoco or pycocotools"
    ):
        task.check_metric({"backend": "coco"})


def test_a_metric_without_backends_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"metric.backend means nothing to this task.* takes no settings; leave it out"
    ):
        ClassificationTask.check_metric({"backend": "auto"})
