import pytest
import torch
from torchvision.ops import batched_nms

from tasks.detection.postprocess import (
    Selection,
    best_of_each_image,
    candidates,
    detect,
    suppress,
)


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
    assert suppress(boxes, scores, sizes, 0.4).nonzero().flatten().equal(expected)


def test_boxes_without_area_suppress_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 0], [0, 0, 10, 10], [0, 0, 0, 0]])
    assert suppress(boxes, torch.tensor([0.9, 0.5, 0.4]), [3], 0.1).all()


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
    assert found.group_sizes == [3, 1]
    chosen = scores[found.images, found.indices, found.labels]
    detections = detect(found, boxes[found.indices], chosen, 1, Selection(0.05, 0.5, 4, False, None))
    assert detections.labels.tolist() == [[0, 1, -1, -1]]
    torch.testing.assert_close(detections.scores, torch.tensor([[0.9, 0.6, 0, 0]]))


def test_no_candidates() -> None:
    found = candidates(torch.zeros(2, 5, 3), 0.05)
    detections = detect(found, torch.zeros(0, 4), torch.zeros(0), 2, Selection(0.05, 0.5, 7, False, None))
    assert detections.boxes.shape == (2, 7, 4)
    assert (detections.labels == -1).all()
