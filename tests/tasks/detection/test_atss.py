"""Adaptive selection, beside the paper's algorithm written as loops, and by hand."""

import pytest
import torch

from tasks.detection import matching
from tasks.detection.anchors import make_anchors
from tasks.detection.atss import match_adaptively
from tests.tasks.detection.assignment_loops import adaptive_matches, grid


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_the_algorithm_in_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, level_sizes = grid()
    corners = torch.rand(3, 12, 2, generator=generator) * torch.tensor([60.0, 44.0])
    sides = torch.rand(3, 12, 2, generator=generator) ** 3 * 40 + 0.5  # some lie between the centres of cells
    boxes = torch.cat((corners, corners + sides), dim=2)
    valid = torch.rand(3, 12, generator=generator) > 0.2
    found = match_adaptively(anchors, level_sizes, boxes, valid)
    for image in range(3):
        rows = valid[image].nonzero()[:, 0].tolist()
        expected = adaptive_matches(anchors, level_sizes, [boxes[image, row].tolist() for row in rows])
        assert found[image].tolist() == [rows[row] if row >= 0 else -1 for row in expected]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, level_sizes = grid()
    corners = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0)) * 40
    boxes, valid = torch.cat((corners, corners + 21), dim=2), torch.ones(2, 7, dtype=torch.bool)
    found = match_adaptively(anchors, level_sizes, boxes, valid)
    monkeypatch.setattr(matching, "_BLOCK_CPU", 100)
    assert torch.equal(match_adaptively(anchors, level_sizes, boxes, valid), found)
    assert (found >= 0).any()


def test_one_cell_for_two_objects_and_none_for_a_speck() -> None:
    """One level of one row of three cells of 8, with anchors of 64 around (4, 4), (12, 4) and (20, 4)."""
    anchors = make_anchors((8, 24), ((1, 3),), (64,), (1.0,), torch.device("cpu"), 0.5)
    objects = torch.tensor([[[8.0, 0, 16, 8], [8, 0, 17, 8], [7.9, 0, 8.1, 1]]])
    valid = torch.tensor([[True, True, True]])
    # Each object lies in all three anchors, which overlap it alike; the second one is the larger. No centre lies in
    # the third, which would be nearest to (4, 4) and (12, 4) alike; it is a hair nearer to the first.
    objects[0, 2, ::2] -= 0.05
    assert match_adaptively(anchors, (3,), objects, valid).tolist() == [[2, 1, -1]]
    assert match_adaptively(anchors, (3,), objects, torch.tensor([[True, False, True]])).tolist() == [
        [2, 0, -1]
    ]
    assert match_adaptively(anchors, (3,), objects, ~valid).tolist() == [[-1, -1, -1]]


def test_one_anchor_alone_and_no_object() -> None:
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    one = torch.ones(1, 1, dtype=torch.bool)
    assert match_adaptively(anchor, (1,), torch.tensor([[[6.0, 6, 10, 10]]]), one).tolist() == [[0]]
    assert match_adaptively(anchor, (1,), torch.tensor([[[6.0, 6, 7, 7]]]), one).tolist() == [[0]]
    assert match_adaptively(
        anchor, (1,), torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)
    ).tolist() == [
        [-1],
        [-1],
    ]
