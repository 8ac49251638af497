import math

import torch

from tasks.detection.boxes import at_least, clip, decode, encode

UNIT = (1.0, 1.0, 1.0, 1.0)


def test_encode_by_hand() -> None:
    anchor = torch.tensor([10.0, 20.0, 30.0, 60.0])  # centre (20, 40), 20 x 40
    box = torch.tensor([20.0, 20.0, 60.0, 40.0])  # centre (40, 30), 40 x 20
    expected = torch.tensor([20 / 20, -10 / 40, math.log(2), -math.log(2)])
    torch.testing.assert_close(encode(box, anchor, UNIT), expected)
    weighted = encode(box, anchor, (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(weighted, expected * torch.tensor([10.0, 10.0, 5.0, 5.0]))


def test_decode_by_hand() -> None:
    anchor = torch.tensor([10.0, 20.0, 30.0, 60.0])
    deltas = torch.tensor([1.0, -0.25, math.log(2), -math.log(2)])
    torch.testing.assert_close(decode(deltas, anchor, UNIT), torch.tensor([20.0, 20.0, 60.0, 40.0]))


def test_decode_inverts_encode() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 50, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + 1 + torch.rand(2, 50, 2, generator=generator) * 50), dim=-1)
    weights = (10.0, 10.0, 5.0, 5.0)
    back = decode(encode(boxes, boxes.flip(1), weights), boxes.flip(1), weights)
    torch.testing.assert_close(back, boxes, rtol=0, atol=1e-3)


def test_decode_bounds_growth() -> None:
    grown = decode(torch.tensor([0.0, 0.0, 1e6, 1e6]), torch.tensor([-8.0, -8.0, 8.0, 8.0]), UNIT)
    torch.testing.assert_close(grown, torch.tensor([-500.0, -500.0, 500.0, 500.0]))  # 1000 / 16 times 16


def test_arithmetic_stays_in_float32() -> None:
    anchor = torch.tensor([[1000.0, 1000.0, 1033.0, 1033.0]])
    assert decode(torch.zeros(1, 4, dtype=torch.bfloat16), anchor, UNIT).equal(anchor)


def test_clip_cuts_each_image_to_its_own_size() -> None:
    boxes = torch.tensor([-5.0, -5.0, 100.0, 100.0]).expand(2, 3, 4)
    clipped = clip(boxes, torch.tensor([[30, 40], [200, 60]]))
    assert clipped[0, 2].tolist() == [0, 0, 40, 30]
    assert clipped[1, 0].tolist() == [0, 0, 60, 100]


def test_at_least_needs_both_sides_and_refuses_nan() -> None:
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 9, 0.5], [0, 0, float("nan"), 9], [3, 3, 1, 1]])
    assert at_least(boxes, 1).tolist() == [True, False, False, False]
