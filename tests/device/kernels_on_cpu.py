"""What `tasks/detection/triton_kernels.py` computes, in plain operators on the data of simulated tensors.

A kernel is one launch, which neither waits nor shows its parts; `test_triton_kernels.py` holds the
real ones to plain operators.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms, sigmoid_focal_loss

from tests.device.simulated_cuda import SimulatedTensor


def suppress_sorted(boxes: Tensor, starts: Tensor, iou_threshold: float) -> Tensor:
    boxes, bounds = _data(boxes), _data(starts).tolist()
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for start, end in pairwise(bounds):
        falling = torch.arange(end - start, 0, -1).float()
        keep[start:end][nms(boxes[start:end], falling, iou_threshold)] = True
    return SimulatedTensor(keep)


def best_overlaps(
    boxes: Tensor, gt_boxes: Tensor, gt_valid: Tensor, *, ties: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    objects = _data(gt_boxes) * _data(gt_valid)[..., None]
    boxes = _data(boxes).expand(len(objects), -1, 4)
    overlap = torch.stack([box_iou(*pair) for pair in zip(objects, boxes, strict=True)]).nan_to_num(0)
    best, row = overlap.max(dim=1)
    most = overlap.amax(dim=2, keepdim=True)
    as_good = ((overlap == most) & (most > 0)).any(dim=1)
    return SimulatedTensor(best), SimulatedTensor(row), SimulatedTensor(as_good) if ties else None


def focal_losses(logits: Tensor, labels: Tensor, alpha: float, slopes: Tensor | None) -> Tensor:
    values, classes = _data(logits).float(), logits.shape[1]
    targets = torch.nn.functional.one_hot(_data(labels), classes + 1)[:, :-1].float()
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        losses = sigmoid_focal_loss(values, targets, alpha).sum(dim=1)
        (derivative,) = torch.autograd.grad(losses.sum(), values)
    if slopes is not None:
        _data(slopes).copy_(derivative)
    return SimulatedTensor(losses.detach())


def _data(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, SimulatedTensor), "a kernel takes tensors of its device alone"
    return tensor.data_on_cpu.detach()
