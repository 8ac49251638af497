import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from tasks.detection.roi_align import PyramidTable, assign_levels, multilevel_roi_align

STRIDES = (4, 8, 16, 32)


def make_maps(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, 6, 96 // s, 128 // s, generator=generator) for s in STRIDES]
    return [m.to(dtype, memory_format=torch.channels_last).requires_grad_() for m in maps]


def make_boxes() -> Tensor:
    """Boxes of all sizes inside 128 x 96, at its edges and past them, one pixel wide, and empty."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(3, 40, 2, generator=generator) * torch.tensor([120, 90])
    size = torch.rand(3, 40, 2, generator=generator) ** 3 * 300 + 0.5
    size[:, 4] = 700  # the coarsest level
    boxes = torch.cat((corner, corner + size), dim=-1)
    boxes[:, :4] = torch.tensor([[0.0, 0, 128, 96], [0, 0, 0, 0], [127, 95, 128, 96], [-20, -20, 150, 130]])
    return boxes


def reference(maps: list[Tensor], boxes: Tensor, output_size: int) -> Tensor:
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    rois = torch.cat((image[:, None].to(boxes), boxes.flatten(0, 1)), dim=1)
    levels = assign_levels(boxes.flatten(0, 1), 2, 5) - 2
    pooled = [
        roi_align(level, rois, output_size, spatial_scale=1 / s, sampling_ratio=2)
        for level, s in zip(maps, STRIDES, strict=True)
    ]
    return torch.stack(pooled)[levels, torch.arange(len(rois))]


@pytest.mark.parametrize("output_size", [7, 5])
def test_equal_to_torchvision_forward_and_backward(output_size: int) -> None:
    boxes = make_boxes()
    assert len(assign_levels(boxes, 2, 5).unique()) == 4
    ours, theirs = make_maps(), make_maps()
    pooled = multilevel_roi_align(PyramidTable.of(ours, STRIDES), boxes, output_size)
    expected = reference(theirs, boxes, output_size)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=2e-5)
    gradient = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
    pooled.backward(gradient)
    expected.backward(gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-4)


def test_levels_equal_torchvisions() -> None:
    boxes = [b[b[:, 2] > b[:, 0]] for b in make_boxes()]
    exact = torch.tensor([[0.0, 0, 112, 112], [0, 0, 224, 224], [0, 0, 448, 448], [5, 5, 229, 229]])
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    pooler({str(i): m for i, m in enumerate(make_maps())}, boxes, [(96, 128)] * 3)
    assert pooler.map_levels is not None
    for some in (*boxes, exact):
        assert assign_levels(some, 2, 5).equal(pooler.map_levels([some]) + 2)
    assert assign_levels(exact, 2, 5).tolist() == [3, 4, 5, 4]


def test_bfloat16_gradients_are_summed_in_float32() -> None:
    # Forty boxes on one spot: adding their gradients up in bfloat16 loses several per cent.
    boxes = make_boxes()[:, 4:5].expand(-1, 400, -1)
    ours, theirs = make_maps(torch.bfloat16), make_maps()
    multilevel_roi_align(PyramidTable.of(ours, STRIDES), boxes, 7).sum().backward()
    reference(theirs, boxes, 7).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad.float(), b.grad, rtol=2e-2, atol=2e-2 * float(b.grad.abs().max()))


def test_no_boxes() -> None:
    maps = make_maps()
    pooled = multilevel_roi_align(PyramidTable.of(maps, STRIDES), torch.zeros(3, 0, 4), 7)
    assert pooled.shape == (0, 6, 7, 7)
    pooled.sum().backward()


def test_one_level() -> None:
    maps = make_maps()[1:2]
    boxes = make_boxes()
    image = torch.arange(3).repeat_interleave(40)
    rois = torch.cat((image[:, None].float(), boxes.flatten(0, 1)), dim=1)
    expected = roi_align(maps[0], rois, 7, spatial_scale=1 / 8, sampling_ratio=2)
    pooled = multilevel_roi_align(PyramidTable.of(maps, (8,)), boxes, 7)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=2e-5)
