"""Non-maximum suppression by torchvision's library alone against torchvision's own."""

import subprocess
import sys

import pytest
import torch
import torchvision

from tasks.detection.nms import nms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keeps_what_torchvision_keeps(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    corners, sides = torch.rand(2, 300, 2, generator=generator) * 50
    boxes = torch.cat((corners, corners + sides), dim=1).to(dtype)
    scores = torch.rand(300, generator=generator).to(dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torchvision.ops.nms(boxes.to(exact), scores.to(exact), 0.5)
    assert 5 < len(expected) < 200
    assert torch.equal(nms(boxes, scores, 0.5), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            nms(boxes, scores, 0.5), torchvision.ops.nms(boxes.to(exact), scores.to(exact), 0.5)
        )


def test_torchvision_may_come_before_or_after() -> None:
    code = """
import sys, torch
from tasks.detection.nms import nms
boxes, scores = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8], [20, 0, 29, 9]]), torch.tensor([0.5, 0.9, 0.1])
if sys.argv[1] == "before":
    import torchvision
kept = nms(boxes, scores, 0.5).tolist()
print(kept, "torchvision" in sys.modules)
import torchvision.ops
print(torchvision.ops.nms(boxes, scores, 0.5).tolist() == kept)
print(torchvision.ops.roi_align(torch.ones(1, 1, 8, 8, requires_grad=True), [boxes], 2).requires_grad)
"""
    for order, loaded in (("before", True), ("after", False)):
        done = subprocess.run([sys.executable, "-c", code, order], capture_output=True, text=True)
        assert done.stdout.split("\n")[:3] == [f"[1, 2] {loaded}", "True", "True"], done.stderr
