"""What torch's libraries for a GPU are told, once for a whole run, and put back after it."""

import contextlib
from collections.abc import Generator

import torch


@contextlib.contextmanager
def backends(device: torch.device, *, tf32: bool, benchmark: bool) -> Generator[str]:
    """Inside, products of float32 are computed in TF32 or not, and cuDNN tries its algorithms for each shape or not.

    Gives what to say of it; nothing for a CPU, where nothing is changed.
    """
    if device.type != "cuda":
        yield ""
        return
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision(
        "high" if tf32 else "highest"
    )  # torch's newer names clash with Lightning's use
    cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark
    try:
        on = {True: "on", False: "off"}
        yield f"TF32 {on[tf32]} (tf32), cuDNN's search for algorithms {on[benchmark]} (trainer.benchmark)"
    finally:
        torch.set_float32_matmul_precision(before[0])
        _, cudnn.allow_tf32, cudnn.benchmark = before
