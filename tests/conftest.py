"""For all tests: one thread, no network but this machine's own, and the ratios that benchmarks measured at the end."""

import os
import socket
from typing import Any

# Before torch is imported; programs that tests start inherit it. Inputs are tiny, and `make test` runs as many tests
# at once as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not os.path.exists(
    "/dev/nvidiactl"
):  # kernels for CUDA are interpreted; read where Triton is imported first
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # whichever file imports it first

_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: object) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = str(address[0])  # type: ignore[index]
        if host not in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
            raise OSError(f"a test asked for {host}; tests run without a network")
    _connect(self, address)  # type: ignore[arg-type]


socket.socket.connect = _connect_here  # type: ignore[method-assign]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what tests recorded as `ratio` (tests/test_benchmark.py)."""
    lines = [
        str(value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == "ratio"
    ]
    if lines:
        terminalreporter.section("how many times faster than the peer, on tiny inputs and a busy machine")
        for line in lines:
            terminalreporter.write_line(line)
