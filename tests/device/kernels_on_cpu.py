"""What `tasks/detection/triton_kernels.py` computes, in plain operators on the data of simulated tensors.

A kernel is one launch, which neither waits nor shows its parts; `test_triton_kernels.py` holds the
real ones to plain operators.
"""

from typing import Any

from torch import Tensor

from tests.device.simulated_cuda import SimulatedTensor
from tools.benchmarks import plain_kernels


def suppress_sorted(boxes: Tensor, starts: Tensor, iou_threshold: float) -> Tensor:
    return _back(plain_kernels.suppress_sorted(_data(boxes), _data(starts), iou_threshold))


def best_overlaps(
    boxes: Tensor, gt_boxes: Tensor, gt_valid: Tensor, *, ties: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    return _back(plain_kernels.best_overlaps(_data(boxes), _data(gt_boxes), _data(gt_valid), ties=ties))


def focal_losses(logits: Tensor, labels: Tensor, alpha: float, slopes: Tensor | None) -> Tensor:
    into = None if slopes is None else _data(slopes)
    return _back(plain_kernels.focal_losses(_data(logits), _data(labels), alpha, into))


def _data(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, SimulatedTensor), "a kernel takes tensors of its device alone"
    return tensor.data_on_cpu.detach()


def _back(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(_back, result))
    return SimulatedTensor(result) if isinstance(result, Tensor) else result
