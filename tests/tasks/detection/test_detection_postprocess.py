import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from tasks.detection.postprocess import (
    DetectionSettings,
    best_of_each_image,
    best_of_each_level,
    candidates,
    postprocess,
    soft_nms,
)
from tasks.detection.suppression import suppress


def random_boxes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 30), dim=1)
    return boxes, torch.rand(count, generator=generator)


@pytest.mark.parametrize("sizes", [[300], [100, 0, 150, 50], [1] * 300])
def test_suppress_equals_torchvisions_batched_nms(sizes: list[int]) -> None:
    boxes, scores = random_boxes(300)
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    expected = batched_nms(boxes, scores, groups, 0.4).sort().values
    assert suppress(boxes, scores, groups, len(sizes), 0.4).nonzero().flatten().equal(expected)
    mixed = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    kept = suppress(boxes[mixed], scores[mixed], groups[mixed], len(sizes), 0.4)
    assert mixed[kept].sort().values.equal(expected)


def test_boxes_without_area_suppress_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 0], [0, 0, 10, 10], [0, 0, 0, 0]])
    assert suppress(boxes, torch.tensor([0.9, 0.5, 0.4]), torch.zeros(3, dtype=torch.long), 1, 0.1).all()


def test_best_of_each_image_orders_cuts_and_pads() -> None:
    images = torch.tensor([2, 0, 0, 2, 0, 0])
    scores = torch.tensor([0.3, 0.5, 0.9, 0.0, 0.7, 0.2])
    labels = torch.tensor([1, 2, 3, 4, 5, 6])
    boxes = labels[:, None].expand(6, 4).float()
    found = best_of_each_image(boxes, scores, labels, images, 3, 3)
    assert found.labels.tolist() == [[3, 5, 2], [-1, -1, -1], [1, -1, -1]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.7, 0.5], [0, 0, 0], [0.3, 0, 0]]))
    assert found.boxes[:, :, 0].tolist() == [[3, 5, 2], [0, 0, 0], [1, 0, 0]]


def test_classes_do_not_suppress_each_other_and_thin_boxes_are_dropped() -> None:
    scores = torch.tensor([[[0.9, 0.6], [0.8, 0.05], [0.7, 0.0]]])  # one image, three boxes, two classes
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 50.001, 60]])
    found = candidates(scores, 0.05)
    assert found.labels.tolist() == [0, 0, 0, 1]
    chosen = scores[found.images, found.indices, found.labels]
    detections = postprocess(found, boxes[found.indices], chosen, 1, 2, DetectionSettings(max_detections=4))
    assert detections.labels.tolist() == [[0, 1, -1, -1]]
    torch.testing.assert_close(detections.scores, torch.tensor([[0.9, 0.6, 0, 0]]))


def test_no_candidates() -> None:
    found = candidates(torch.zeros(2, 5, 3), 0.05)
    detections = postprocess(
        found, torch.zeros(0, 4), torch.zeros(0), 2, 3, DetectionSettings(max_detections=7)
    )
    assert detections.boxes.shape == (2, 7, 4)
    assert (detections.labels == -1).all()


def found_in(
    scores: torch.Tensor, boxes: torch.Tensor, selection: DetectionSettings
) -> list[tuple[int, float]]:
    found = candidates(scores, selection.score_threshold)
    chosen = scores[found.images, found.indices, found.labels]
    detections = postprocess(
        found, boxes[found.images, found.indices], chosen, len(scores), scores.shape[2], selection
    )
    return [
        (label, round(score, 6))
        for label, score in zip(detections.labels[0].tolist(), detections.scores[0].tolist(), strict=True)
        if label >= 0
    ]


TWO = torch.tensor([[[0.9, 0.0], [0.0, 0.8], [0.7, 0.0]]]).repeat(2, 1, 1)
PLACES = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 8], [40, 40, 50, 50]]]).repeat(2, 1, 1)


def test_class_agnostic_suppression() -> None:
    """The second image is the same as the first and must not be suppressed by it."""
    kept = DetectionSettings(max_detections=4, class_agnostic_nms=True)
    assert found_in(TWO, PLACES, kept) == [(0, 0.9), (0, 0.7)]
    assert found_in(TWO.flip(0), PLACES.flip(0), kept) == [(0, 0.9), (0, 0.7)]
    assert found_in(TWO, PLACES, replace(kept, class_agnostic_nms=False)) == [(0, 0.9), (1, 0.8), (0, 0.7)]


def test_soft_suppression_by_hand() -> None:
    """Overlap 8/10 takes 0.8 to 0.8 exp(-0.64 / 0.5) = 0.2224; below the threshold nothing is left of it."""
    soft = DetectionSettings(max_detections=4, class_agnostic_nms=True, soft_nms_sigma=0.5)
    lowered = round(0.8 * math.exp(-0.64 / 0.5), 6)
    assert found_in(TWO, PLACES, soft) == [(0, 0.9), (0, 0.7), (1, pytest.approx(lowered, abs=2e-6))]
    assert found_in(TWO, PLACES, replace(soft, score_threshold=0.3)) == [(0, 0.9), (0, 0.7)]
    assert found_in(TWO, PLACES, replace(soft, class_agnostic_nms=False)) == [(0, 0.9), (1, 0.8), (0, 0.7)]
    assert found_in(TWO, PLACES, replace(soft, max_detections=1)) == [(0, 0.9)]


def test_soften_equals_the_plain_loop() -> None:
    boxes, scores = random_boxes(60)
    groups = torch.tensor([0] * 20 + [2] * 40)
    softened = soft_nms(boxes, scores, groups, 3, 0.5, 100)
    for part in (slice(0, 20), slice(20, 60)):
        left, expected = scores[part].clone(), torch.zeros_like(scores[part])
        overlap = box_iou(boxes[part], boxes[part])
        while (left > 0).any():
            best = int(left.argmax())
            expected[best] = left[best]
            left *= torch.exp(-(overlap[best] ** 2) / 0.5)
            left[expected > 0] = 0
        torch.testing.assert_close(softened[part], expected)
    assert soft_nms(boxes[:0], scores[:0], groups[:0], 3, 0.5, 10).shape == (0,)


def test_best_of_each_level_by_hand() -> None:
    """Two levels of two boxes and one, two classes, at most two candidates of each level."""
    scores = torch.tensor([[[0.5, 0.9], [0.6, 0.1], [0.2, 0.3]], [[0.0, 0.0], [0.0, 0.4], [0.0, 0.0]]])
    found = best_of_each_level(scores, 0.05, (2, 1), 2)
    rows = list(zip(found.images.tolist(), found.labels.tolist(), found.indices.tolist(), strict=True))
    assert rows == [(0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 2), (1, 1, 1)]
    nothing = best_of_each_level(scores, 0.95, (2, 1), 2)
    assert len(nothing.images) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nms_threshold": 1.5}, "nms_threshold=1.5 must be between 0 and 1"),
        ({"max_detections": 0}, "max_detections=0 at least 1"),
        ({"soft_nms_sigma": 0.0}, "soft_nms_sigma=0.0 must be above 0"),
    ],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionSettings(**change)
