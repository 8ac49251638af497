"""The CUDA kernels beside what they replace, by Triton's interpreter (see `conftest.py`), which needs no GPU."""

import pytest
import torch
from packaging.version import Version
from torchvision.ops import nms, sigmoid_focal_loss

from tasks.detection import focal_loss, kernels, matching, suppression
from tests.tasks.detection.test_detection_postprocess import random_boxes

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(
        Version(triton.__version__) < Version("3.7"),
        reason="its interpreter does not take arrays of numpy 2.4",
    ),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here, not interpreted"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),  # overlaps of empty boxes
]


@pytest.fixture
def everywhere(monkeypatch):
    """Takes the kernels on a CPU too."""
    from tasks.detection import triton_kernels

    for module in (suppression, matching, focal_loss):
        monkeypatch.setattr(module, "kernels_for", lambda device: triton_kernels)


def test_a_cpu_has_no_kernels() -> None:
    assert kernels.kernels_for(torch.device("cpu")) is None


@pytest.mark.parametrize("sizes", [[1], [63, 0, 64, 65], [200, 3]])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppression_is_torchvisions(sizes: list[int], threshold: float, everywhere) -> None:
    boxes, scores = random_boxes(sum(sizes))
    boxes[::17] = 0  # without area: suppresses nothing
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    expected = torch.zeros(len(boxes), dtype=torch.bool)
    for group in range(len(sizes)):
        rows = (groups == group).nonzero()[:, 0]
        expected[rows[nms(boxes[rows], scores[rows], threshold)]] = True
    assert 1 <= expected.sum() <= len(boxes)
    mixed = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))
    found = suppression.suppress(boxes[mixed], scores[mixed], groups[mixed], len(sizes), threshold)
    assert found.equal(expected[mixed])
    assert suppression.suppress(boxes[:0], scores[:0], groups[:0], 3, threshold).shape == (0,)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("of_each_image", [False, True])
def test_matching_is_that_of_plain_operators(low_quality, of_each_image, everywhere, monkeypatch) -> None:
    boxes, _ = random_boxes(700)
    objects = random_boxes(8)[0].view(2, 4, 4)
    objects[0, 0] = objects[0, 1]  # equal overlaps: the first object
    valid = torch.tensor([[True, True, False, True], [True, False, True, True]])
    if of_each_image:
        boxes = torch.stack((boxes, boxes.flip(0)))
    settings = {"foreground_iou": 0.6, "background_iou": 0.3, "low_quality": low_quality}
    found = matching.match(boxes, objects, valid, **settings)
    monkeypatch.setattr(matching, "kernels_for", lambda device: None)
    expected = matching.match(boxes, objects, valid, **settings)
    assert found.equal(expected)
    assert {-2, -1, 0} < set(found.unique().tolist())


@pytest.mark.parametrize("classes", [1, 80, 131])
def test_focal_losses_and_their_slopes_are_torchvisions(classes: int, everywhere) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = (torch.randn(70, classes, generator=generator) * 4).requires_grad_()
    labels = torch.randint(classes + 1, (70,), generator=generator)
    targets = torch.nn.functional.one_hot(labels, classes + 1)[:, :-1].float()
    weights = torch.rand(70, generator=generator)
    found = focal_loss.focal_losses(logits, labels)
    expected = sigmoid_focal_loss(logits, targets).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    slopes = [torch.autograd.grad((loss * weights).sum(), logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-6)
