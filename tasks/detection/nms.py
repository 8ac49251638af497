"""torchvision's compiled non-maximum suppression, without the rest of torchvision.

`import torchvision` imports every model, torch.onnx and torch._dynamo: two seconds of processor time before the
first prediction.
"""

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """`torchvision.ops.nms`: the rows of `boxes` (N, 4) to keep, int64, by falling `scores` (N,)."""
    load_operators()
    # Under autocast importing torchvision would add the cast; half precision has no kernel on a CPU.
    boxes, scores = (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in (boxes, scores))
    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)


@cache
def load_operators() -> None:
    """Registers torchvision's operators, as importing it would."""
    spec = find_spec("torchvision")  # imports nothing
    if "torchvision" not in sys.modules and spec is not None and spec.origin is not None:
        for name in ("_C_stable", "_C"):  # of newer wheels, and of older ones
            for file in Path(spec.origin).parent.glob(f"{name}.*"):
                if file.suffix in (".so", ".pyd", ".dylib"):
                    torch.ops.load_library(file)
                    return
    import torchvision.ops  # noqa: F401
