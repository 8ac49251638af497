"""Task-aligned assignment, beside its formulas written as loops, and by hand."""

import pytest
import torch

from tasks.detection import matching
from tasks.detection.task_alignment import assign_by_alignment
from tests.tasks.detection.assignment_loops import aligned_matches, grid


@pytest.mark.parametrize("block", [2**16, 1])
@pytest.mark.parametrize("seed", range(4))
def test_matches_and_targets_are_those_of_loops(
    seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_BLOCK_CPU", block)
    generator = torch.Generator().manual_seed(seed)
    anchors, _ = grid()
    corners = torch.rand(2, 9, 2, generator=generator) * torch.tensor([50.0, 34.0])
    gt_boxes = torch.cat((corners, corners + torch.rand(2, 9, 2, generator=generator) * 40 + 1), dim=2)
    labels = torch.randint(3, (2, 9), generator=generator)
    valid = torch.rand(2, 9, generator=generator) > 0.2
    boxes = anchors + torch.randn(2, len(anchors), 4, generator=generator) * 4
    boxes = torch.cat((boxes[..., :2], boxes[..., :2] + 25), dim=2)
    scores = torch.rand(2, len(anchors), 3, generator=generator)
    matches, targets = assign_by_alignment(anchors, boxes, scores, gt_boxes, labels, valid)
    for image in range(2):
        rows = valid[image].nonzero()[:, 0].tolist()
        objects = {row: (gt_boxes[image, row].tolist(), int(labels[image, row])) for row in rows}
        expected = aligned_matches(anchors.tolist(), boxes[image].tolist(), scores[image].tolist(), objects)
        assert matches[image].tolist() == expected[0]
        torch.testing.assert_close(targets[image], torch.tensor(expected[1]), rtol=1e-4, atol=1e-6)
    assert (matches >= 0).sum() > 20


def test_nothing_is_aligned_with_what_nothing_overlaps() -> None:
    anchors = torch.tensor([[0.0, 0, 16, 16], [16, 0, 32, 16]])
    objects, labels, valid = torch.tensor([[[0.0, 0, 16, 16]]]), torch.tensor([[0]]), torch.tensor([[True]])
    apart, scores = torch.tensor([[[40.0, 40, 50, 50]] * 2]), torch.full((1, 2, 1), 0.5)
    matches, targets = assign_by_alignment(anchors, apart, scores, objects, labels, valid)
    assert matches.tolist() == [[-1, -1]] and targets.tolist() == [[0.0, 0.0]]
    # The second anchor predicts the object to the pixel, but its own centre lies outside.
    exact = torch.tensor([[[0.0, 0, 16, 8], [0, 0, 16, 16]]])
    matches, targets = assign_by_alignment(anchors, exact, scores, objects, labels, valid)
    assert matches.tolist() == [[0, -1]] and targets.tolist() == [[0.5, 0.0]]
    none = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.bool)
    matches, targets = assign_by_alignment(anchors, exact, scores, *none)
    assert matches.tolist() == [[-1, -1]] and targets.tolist() == [[0.0, 0.0]]
