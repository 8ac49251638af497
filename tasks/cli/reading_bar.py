"""How far reading a large data set is, on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import threading
import time
from typing import TextIO

WIDTH = 24
EVERY = {True: 0.1, False: 10.0}
"""Seconds between two looks of a bar on a terminal, and between two lines."""


class ReadingBar:
    """What `tasks.data.progress.showing` calls."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self._lock = threading.Lock()
        self._what = ""
        self._next = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Draws, where it is time to."""
        with self._lock:
            now, is_last = time.monotonic(), done >= total
            if what == self._what and now < self._next and not is_last:
                return
            self._what, self._next = what, now + EVERY[self.is_terminal]
            if self.is_terminal:
                full = WIDTH * done // max(total, 1)
                bar = f"{what} [{'#' * full}{' ' * (WIDTH - full)}] {100 * done // max(total, 1)} %"
                self.stream.write("\r\033[K" if is_last else f"\r\033[K{bar}")
            else:
                self.stream.write(f"{what}: {100 * done // max(total, 1)} %\n")
            self.stream.flush()
