import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from tasks.detection import matching
from tasks.detection.matching import BACKGROUND, IGNORED, match, take_matched, valid_targets

# Widths along a strip one pixel high, so that overlaps are easy: IoU = shared length / joint length.
OBJECTS = torch.tensor([[0.0, 0, 10, 1], [20, 0, 30, 1], [40, 0, 80, 1]])
ANCHORS = torch.tensor([[0.0, 0, 8, 1], [6, 0, 16, 1], [25, 0, 35, 1], [40, 0, 50, 1]])
#            object 0        1        2
# anchor 0     0.8           0        0
# anchor 1     4/16 = 0.25   0        0
# anchor 2     0             1/3      0
# anchor 3     0             0        0.25


def matches(low_quality: bool, valid: tuple[bool, bool, bool] = (True, True, True)) -> list[int]:
    found = match(
        ANCHORS,
        OBJECTS[None],
        torch.tensor([valid]),
        foreground_iou=0.7,
        background_iou=0.3,
        low_quality=low_quality,
    )
    return found[0].tolist()


def test_three_by_four_by_hand() -> None:
    assert matches(low_quality=False) == [0, BACKGROUND, IGNORED, BACKGROUND]
    # Every object gets the anchor that overlaps it most, however little.
    assert matches(low_quality=True) == [0, BACKGROUND, 1, 2]


def test_rows_that_do_not_count_match_nothing() -> None:
    assert matches(True, (False, True, False)) == [BACKGROUND, BACKGROUND, 1, BACKGROUND]
    assert matches(True, (False, False, False)) == [BACKGROUND] * 4


def test_no_rows_and_no_overlap_are_background() -> None:
    none = match(ANCHORS, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), foreground_iou=0.7,
                 background_iou=0.3, low_quality=True)  # fmt: skip
    assert none.tolist() == [[BACKGROUND] * 4] * 2
    far = match(ANCHORS, torch.tensor([[[200.0, 5, 210, 9]]]), torch.tensor([[True]]), foreground_iou=0.7,
                background_iou=0.3, low_quality=True)  # fmt: skip
    assert far.tolist() == [[BACKGROUND] * 4]


@pytest.mark.parametrize("block", [1, 1000, 10**9])
@pytest.mark.parametrize("low_quality", [True, False])
def test_equal_to_torchvisions(monkeypatch: pytest.MonkeyPatch, block: int, low_quality: bool) -> None:
    monkeypatch.setattr(matching, "_BLOCK_CPU", block)
    generator = torch.Generator().manual_seed(1)
    corner = (torch.rand(2, 400, 2, generator=generator) * 60).round()  # whole numbers make ties
    boxes = torch.cat(
        (corner, corner + 4 + (torch.rand(2, 400, 2, generator=generator) * 40).round()), dim=-1
    )
    objects = boxes[:, :25] + torch.randint(0, 5, (2, 25, 4), generator=generator)
    found = match(
        boxes,
        objects,
        torch.ones(2, 25, dtype=torch.bool),
        foreground_iou=0.6,
        background_iou=0.4,
        low_quality=low_quality,
    )
    oracle = Matcher(0.6, 0.4, allow_low_quality_matches=low_quality)
    for i in range(2):
        assert found[i].equal(oracle(box_iou(objects[i], boxes[i])))


def test_crowds_padding_and_empty_boxes_are_not_trainable() -> None:
    boxes = torch.tensor([[[0.0, 0, 5, 5], [0, 0, 5, 5], [0, 0, 0, 0], [3, 3, 3, 9]]])
    labels = torch.tensor([[1, 1, -1, 2]])
    is_crowd = torch.tensor([[False, True, False, False]])
    assert valid_targets(boxes, labels, is_crowd).tolist() == [[True, False, False, False]]


def test_take_matched_fills_where_nothing_matched() -> None:
    labels = torch.tensor([[7, 8], [9, -1]])
    found = torch.tensor([[1, BACKGROUND, 0], [0, IGNORED, 0]])
    assert take_matched(labels, found, 3).tolist() == [[8, 3, 7], [9, 3, 9]]
    assert take_matched(labels[:, :0], found.clamp(max=-1), 3).tolist() == [[3] * 3] * 2
    assert take_matched(torch.ones(2, 2, 4), found, 0)[1].sum(dim=-1).tolist() == [4, 0, 4]
