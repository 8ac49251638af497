"""Which object a point stands for, by hand: FCOS's rules, centre-ness, and SimOTA."""

import math

import pytest
import torch
from torch import Tensor

from tasks.detection import matching
from tasks.detection.boxes import decode_distances, encode_distances
from tasks.detection.point_matching import assign_by_cost, centerness, match_points


def points(*rows: tuple[float, float, float]) -> Tensor:
    """Square anchors from (x, y, stride)."""
    return torch.tensor([[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for x, y, s in rows])


def test_distances_by_hand() -> None:
    point = points((20, 30, 8))
    box = torch.tensor([[12.0, 6, 60, 34]])
    distances = encode_distances(box, point)
    assert distances.tolist() == [[1.0, 3.0, 5.0, 0.5]]  # 8, 24, 40 and 4 pixels in strides of 8
    assert decode_distances(distances, point).equal(box)


def test_distances_are_an_exact_round_trip_and_negative_outside() -> None:
    anchors = points((4, 4, 8), (100, 20, 32)).expand(3, 2, 4)
    boxes = torch.tensor([[[10.0, -3, 50, 9], [0, 0, 120, 40]]]).expand(3, 2, 4)
    distances = encode_distances(boxes, anchors)
    assert distances[0, 0, 0] < 0
    torch.testing.assert_close(decode_distances(distances, anchors), boxes)
    assert encode_distances(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_centerness_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 20]])
    # left 10, right 30, top 5, bottom 15: sqrt(1/3 * 1/3); the middle; on a side
    expected = torch.tensor([1 / 3, 1.0, 0.0])
    where = points((10, 5, 8), (20, 10, 8), (40, 10, 8))
    torch.testing.assert_close(centerness(boxes.expand(3, 4), where), expected)
    assert centerness(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_points_of_fcos_by_hand() -> None:
    """Two levels, strides 8 and 16: the first for sides nearer than 64 pixels, the second for those from 64 on."""
    where = points((8, 8, 8), (16, 8, 8), (40, 8, 8), (16, 16, 16), (48, 48, 16))
    objects = torch.tensor([[0.0, 0, 20, 16], [4, 4, 14, 14], [0, 0, 112, 90], [0, 0, 0, 0]])
    valid = torch.tensor([[True, True, True, False]])
    expected = [
        1,  # in the first and the second: the smaller has it
        0,  # outside the second
        -1,  # in the third alone, whose centre (56, 45) is farther than 12
        -1,  # in the first, all sides of which are nearer than 64
        -1,  # the right side of the third is 64 pixels away, and not farther
    ]
    assert match_points(where, (3, 2), objects[None], valid, radius=1.5).tolist() == [expected]
    objects[2, 2] = 114  # now 66
    assert match_points(where, (3, 2), objects[None], valid, radius=1.5)[0, 4] == 2


def test_points_of_fcos_at_the_edges() -> None:
    where = points((8, 8, 8), (16, 16, 16))
    none = match_points(where, (1, 1), torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), radius=1.5)
    assert none.tolist() == [[-1, -1]] * 2
    huge = torch.tensor([[[-5000.0, -5000, 5016, 5016]]])  # past all ranges: the last level has no upper one
    assert match_points(where, (1, 1), huge, torch.ones(1, 1, dtype=torch.bool), radius=1.5).tolist() == [
        [-1, 0]
    ]
    ignored = match_points(where, (1, 1), huge, torch.zeros(1, 1, dtype=torch.bool), radius=1.5)
    assert ignored.tolist() == [[-1, -1]]


ROW = points((4, 4, 8), (12, 4, 8), (20, 4, 8), (28, 4, 8))


def test_simota_by_hand() -> None:
    """One object around (8, 4): the last point is 20 pixels from there, no nearer than 2.5 strides."""
    objects = torch.tensor([[[0.0, 0, 16, 8]]])
    predicted = torch.tensor([[[0.0, 0, 16, 8], [0, 0, 8, 8], [0, 0, 16, 4], [0, 0, 16, 8]]])
    scores = torch.full((1, 4, 1), 0.5)
    valid = torch.ones(1, 1, dtype=torch.bool)
    label = torch.zeros(1, 1, dtype=torch.int64)
    # Overlaps of the three near it 1 + 1/2 + 1/2: two points; the third lies outside and would cost 10^5 more.
    matches, overlaps = assign_by_cost(ROW, predicted, scores, objects, label, valid, radius=2.5)
    assert matches.tolist() == [[0, 0, -1, -1]]
    torch.testing.assert_close(overlaps, torch.tensor([[1.0, 0.5, 0.0, 0.0]]))


def test_simota_takes_by_class_and_overlap() -> None:
    """Cost by hand: -log p of the own class, -log(1 - p) of the others, three times -log of the overlap."""
    objects = torch.tensor([[[0.0, 0, 32, 8]]])
    predicted = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 12, 8], [0, 0, 8, 8]]])  # 1/4, …, 3/8
    scores = torch.tensor([[[0.1, 0.5], [0.1, 0.9], [0.1, 0.5], [0.9, 0.5]]])
    costs = [
        -math.log(p[1]) - math.log(1 - p[0]) - 3 * math.log(overlap)
        for p, overlap in zip(scores[0].tolist(), (0.25, 0.25, 0.375, 0.25), strict=True)
    ]
    best = min(range(4), key=lambda i: costs[i])
    assert best == 2  # 1.6 for the overlap, 0.6 for the class
    label, valid = torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    # Overlaps 1/4 + 1/4 + 3/8 + 1/4 = 1.125: one point.
    matches, _ = assign_by_cost(ROW, predicted, scores, objects, label, valid, radius=4.0)
    assert matches.tolist() == [[-1, -1, 0, -1]]
    scores[0, 1, 1] = 0.999
    scores[0, 2, 1] = 0.2
    matches, _ = assign_by_cost(ROW, predicted, scores, objects, label, valid, radius=4.0)
    assert matches.tolist() == [[-1, 0, -1, -1]]


def test_simota_gives_a_contested_point_to_whom_it_costs_least() -> None:
    objects = torch.tensor([[[0.0, 0, 16, 8], [2, 0, 18, 8], [0, 0, 0, 0]]])
    predicted = torch.tensor([[[0.0, 0, 1, 1], [2, 0, 18, 8], [0, 0, 1, 1], [0, 0, 1, 1]]])
    scores = torch.full((1, 4, 1), 0.5)
    valid = torch.tensor([[True, True, False]])
    matches, overlaps = assign_by_cost(
        ROW, predicted, scores, objects, torch.zeros(1, 3, dtype=torch.int64), valid, radius=2.5
    )
    assert matches[0, 1] == 1  # both want it, the second overlaps it wholly
    assert overlaps[0, 1] == 1


def test_simota_of_nothing_and_of_objects_without_a_point_inside() -> None:
    predicted, scores = torch.rand(2, 4, 4), torch.rand(2, 4, 3)
    nothing = assign_by_cost(
        ROW, predicted, scores, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(2, 0, dtype=torch.bool), radius=2.5,
    )  # fmt: skip
    assert (nothing[0] == -1).all()
    assert (nothing[1] == 0).all()
    dot = torch.tensor([[[9.0, 1, 10, 2]], [[0, 0, 0, 0]]])
    matches, _ = assign_by_cost(
        ROW, predicted, scores, dot, torch.tensor([[1], [-1]]), torch.tensor([[True], [False]]), radius=2.5
    )
    assert (matches[0] == 0).sum() == 1
    assert (matches[1] == -1).all()


def test_rounds_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = points(*[(4 + 8 * x, 4 + 8 * y, 8) for y in range(8) for x in range(8)])
    corner = torch.rand(3, 9, 2, generator=generator) * 40
    objects = torch.cat((corner, corner + 4 + 20 * torch.rand(3, 9, 2, generator=generator)), dim=2)
    valid = torch.rand(3, 9, generator=generator) < 0.8
    labels = torch.randint(0, 4, (3, 9), generator=generator)
    predicted = grid + torch.rand(3, 64, 4, generator=generator)
    scores = torch.rand(3, 64, 4, generator=generator)

    def both() -> tuple[Tensor, ...]:
        return (
            match_points(grid, (48, 16), objects, valid, radius=1.5),
            *assign_by_cost(grid, predicted, scores, objects, labels, valid, radius=2.5),
        )

    at_once = both()
    assert (at_once[0] >= 0).any()
    assert (at_once[1] >= 0).sum() > 9
    monkeypatch.setattr(matching, "_BLOCK_CPU", 200)
    for a, b in zip(at_once, both(), strict=True):
        assert a.equal(b)
