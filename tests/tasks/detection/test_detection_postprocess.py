import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from tasks.contracts import Detections
from tasks.detection.postprocess import DetectionSettings, best_of_each_image, postprocess, soft_nms
from tasks.detection.selection import best_pairs, candidates, take_rows
from tasks.detection.suppression import suppress, suppress_by_torchvision, suppress_images


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


def images_of_boxes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, scores and groups of three images: many groups, two, and padding in between."""
    boxes, scores = random_boxes(900)
    boxes, scores = boxes.view(3, 300, 4), scores.view(3, 300)
    groups = torch.stack([torch.arange(300) % number for number in (150, 2, 7)])
    boxes[1, ::3] = 0
    return boxes, scores, groups


@pytest.mark.parametrize("way", [suppress_images, suppress_by_torchvision, torch.ops.vertebra.suppress])
def test_suppression_of_padded_images_is_that_of_each_group(way) -> None:
    boxes, scores, groups = images_of_boxes()
    kept = way(boxes, scores, groups, 150, 0.4)
    for image in range(3):
        filled = boxes[image, :, 2] > 0
        rows = filled.nonzero()[:, 0]
        expected = rows[batched_nms(boxes[image, rows], scores[image, rows], groups[image, rows], 0.4)]
        assert 1 < len(expected) < len(rows)
        assert (kept[image] & filled).nonzero()[:, 0].equal(expected.sort().values)


def test_best_of_each_image_orders_cuts_and_pads() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.7, 0.2], [0.0, 0.0, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0]])
    labels = torch.tensor([[2, 3, 5, 6], [1, 1, 1, 1], [1, 4, 4, 4]])
    boxes = labels[..., None].expand(3, 4, 4).float()
    masks = labels[..., None, None].expand(3, 4, 2, 2).float()
    found = best_of_each_image(boxes, scores, labels, 3, masks)
    assert found.labels.tolist() == [[3, 5, 2], [-1, -1, -1], [1, -1, -1]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.7, 0.5], [0, 0, 0], [0.3, 0, 0]]))
    assert found.boxes[:, :, 0].tolist() == [[3, 5, 2], [0, 0, 0], [1, 0, 0]]
    assert found.masks is not None
    assert found.masks[:, :, 1, 1].tolist() == [[3, 5, 2], [0, 0, 0], [1, 0, 0]]
    more = best_of_each_image(boxes, scores, labels, 6, masks)
    assert more.labels.tolist() == [[3, 5, 2, 6, -1, -1], [-1] * 6, [1, *[-1] * 5]]
    assert more.masks is not None and more.masks.shape == (3, 6, 2, 2)


def detections(scores: torch.Tensor, boxes: torch.Tensor, selection: DetectionSettings) -> Detections:
    found = candidates(scores, selection.score_threshold)
    return postprocess(found, found.take(boxes), scores.shape[2], selection)


def test_classes_do_not_suppress_each_other_and_thin_boxes_are_dropped() -> None:
    scores = torch.tensor([[[0.9, 0.6], [0.8, 0.05], [0.7, 0.0]]])  # one image, three boxes, two classes
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 50.001, 60]]])
    assert candidates(scores, 0.05).labels.tolist() == [[0, 0, 0, 1]]
    found = detections(scores, boxes, DetectionSettings(max_detections=4))
    assert found.labels.tolist() == [[0, 1, -1, -1]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.6, 0, 0]]))


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_no_candidates(sigma: float | None) -> None:
    settings = DetectionSettings(max_detections=7, soft_nms_sigma=sigma)
    found = detections(torch.zeros(2, 5, 3), torch.zeros(2, 5, 4), settings)
    assert found.boxes.shape == (2, 7, 4)
    assert (found.labels == -1).all()


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.4, 0.6])
def test_candidates_of_fixed_shape_are_all_above_the_threshold(threshold: float) -> None:
    """Compiled, where their number cannot be known, against a comparison of every score."""
    scores = (torch.randn(2, 50, 9, generator=torch.Generator().manual_seed(0)) * 3).softmax(dim=2)[..., :8]
    compiled = torch.compile(candidates, backend="eager", fullgraph=True)
    expected = {tuple(row) for row in (scores > threshold).nonzero().tolist()}
    for found in (candidates(scores, threshold), compiled(scores, threshold)):
        rows = [
            (image, int(found.indices[image, i]), int(found.labels[image, i]))
            for image, i in (found.scores > 0).nonzero().tolist()
        ]
        assert len(rows) == len(set(rows)) and set(rows) == expected
        values = scores[tuple(torch.tensor(rows).T)]
        torch.testing.assert_close(found.scores[found.scores > 0], values)


def found_in(
    scores: torch.Tensor, boxes: torch.Tensor, selection: DetectionSettings
) -> list[tuple[int, float]]:
    found = detections(scores, boxes, selection)
    return [
        (label, round(score, 6))
        for label, score in zip(found.labels[0].tolist(), found.scores[0].tolist(), strict=True)
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


def best_of(scores: torch.Tensor, threshold: float, level_sizes: tuple[int, ...], most: int):
    return best_pairs(
        scores.amax(dim=2), lambda columns: take_rows(scores, columns), level_sizes, most, threshold
    )


def test_best_pairs_by_hand() -> None:
    """Two levels of two boxes and one, two classes, at most two candidates of each level."""
    scores = torch.tensor([[[0.5, 0.9], [0.6, 0.1], [0.2, 0.3]], [[0.0, 0.0], [0.0, 0.4], [0.0, 0.0]]])
    found = best_of(scores, 0.05, (2, 1), 2)
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.6, 0.3, 0.2], [0.4, 0, 0, 0]]))
    assert (found.indices[0].tolist(), found.labels[0].tolist()) == ([0, 1, 2, 2], [1, 0, 1, 0])
    assert (found.indices[1, 0], found.labels[1, 0]) == (1, 1)
    assert best_of(scores, 0.95, (2, 1), 2).scores.sum() == 0


@pytest.mark.parametrize("num_classes", [1, 5, 40])
def test_best_pairs_are_those_of_sorting_all(num_classes: int) -> None:
    scores = torch.rand(2, 70, num_classes, generator=torch.Generator().manual_seed(num_classes))
    found = best_of(scores, 0.3, (50, 20), 25)
    for image in range(2):
        start = column = 0
        for size in (50, 20):
            level = scores[image, start : start + size].flatten()
            expected = level[level > 0.3].sort(descending=True).values[:25]
            width = min(25, size * min(num_classes, 25))
            mine = found.scores[image, column : column + width]
            torch.testing.assert_close(mine[mine > 0], expected)
            pairs = (
                found.indices[image, column : column + width],
                found.labels[image, column : column + width],
            )
            torch.testing.assert_close(scores[image][pairs][mine > 0], mine[mine > 0])
            start, column = start + size, column + width


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
