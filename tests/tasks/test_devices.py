"""The device that computes: memory that is kept."""

import subprocess
import sys

import pytest

FAULTS_OF_TEN_FILLS = """
import resource, sys, torch
from tasks.devices import keep_freed_memory
keep_freed_memory(torch.device(sys.argv[1]))
def fill():
    torch.zeros(12 << 20)  # 48 MiB, more than glibc ever keeps by itself
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()  # until the heap has grown to what they take
before = faults()
for _ in range(10):
    fill()
print(1 + faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way with large blocks")
def test_memory_that_a_step_frees_serves_the_next() -> None:
    def faults(device: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_TEN_FILLS, device]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("cpu") * 10 < faults("cuda")  # where each fill asks the system for all its pages
