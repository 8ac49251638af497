"""Times variants of the same work in turns, and reports them as one JSON line."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Run = TypeVar("Run", bound=Callable[[], Any])


@dataclass
class Result:
    """What one benchmark found under one setting."""

    benchmark: str
    setting: dict[str, Any]
    check: str
    """What was compared before anything was timed."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of each variant, run by run."""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """(ours, theirs): variants whose ratio counts."""
    others: dict[str, Any] = field(default_factory=dict)
    """Further numbers: memory, counts."""

    def ratios(self, of: Callable[[list[float]], float] = statistics.median) -> dict[str, float]:
        """How many times faster each pair's first variant is than its second."""
        return {
            f"{ours} / {theirs}": of(self.seconds[theirs]) / of(self.seconds[ours])
            for ours, theirs in self.pairs
        }

    def line(self) -> str:
        """The result as JSON."""
        times = {
            name: {"median": round(statistics.median(s) * 1e3, 3), "min": round(min(s) * 1e3, 3)}
            for name, s in self.seconds.items()
        }
        report = {"benchmark": self.benchmark, **self.setting, "check": self.check}
        if times:
            report["ms"] = times
        if self.pairs:
            report["ratio"] = {name: round(value, 3) for name, value in self.ratios().items()}
            report["ratio_of_minimums"] = {name: round(value, 3) for name, value in self.ratios(min).items()}
        return json.dumps({**report, **self.others, **versions()})


def versions() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}


@contextmanager
def full_precision() -> Iterator[None]:
    """Comparisons in whole float32: by default cuDNN rounds the factors of convolutions to 10 bits (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """The context of a precision."""
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


def in_precision(precision: str, device: str, run: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    """What runs `run` on what is `given` in a precision."""

    def once() -> Any:
        with autocast(precision, device):
            return run(*given)

    return once


def beside_torchvision(
    ours: Callable[[str], Run],
    theirs: Callable[[str], Run],
    best: Callable[[str], Run],
    precisions: list[str],
) -> tuple[dict[str, Run], list[tuple[str, str]]]:
    """The variants, each of a function from a precision to what is run, and the pairs to compare: ours in each of
    `precisions` with torchvision's default (float32, NCHW), and in bf16 with its best setting."""
    default, other = "torchvision fp32 NCHW", "torchvision bf16 channels_last"
    variants, pairs = {default: theirs("fp32")}, []
    for precision in precisions:
        name = f"ours {precision}"
        variants[name] = ours(precision)
        pairs.append((name, default))
        if precision == "bf16":
            variants[other] = best(precision)
            pairs.append((name, other))
    return variants, pairs


def in_turns(
    variants: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each run of each variant, all taking turns after one run that does not count, so that a busy
    moment of the machine meets all of them; and, on a GPU, the most bytes that each held at a time. `clock` is for a
    CPU."""
    peaks = {}
    for name, run in variants.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run()
        if device == "cuda":
            run()  # compilation and the choice of kernels are done by now
            peaks[name] = torch.cuda.max_memory_allocated()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            seconds[name].append(_seconds(run, device, clock))
    return seconds, peaks


def _seconds(run: Callable[[], Any], device: str, clock: Callable[[], float]) -> float:
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    began = clock()
    run()
    return clock() - began
