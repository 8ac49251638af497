"""For all tests: one thread, and no network but this machine's own."""

import os
import socket

# Before torch is imported; programs that tests start inherit it. Inputs are tiny, and `make test` runs as many tests
# at once as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: object) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = str(address[0])  # type: ignore[index]
        if host not in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
            raise OSError(f"a test asked for {host}; tests run without a network")
    _connect(self, address)  # type: ignore[arg-type]


socket.socket.connect = _connect_here  # type: ignore[method-assign]
