"""Bars: how many pictures are done and how many a second, and how far reading a large data set is."""

import sys
import threading
import time
from typing import TextIO


class Bar:
    """One line that is rewritten on a terminal, a line every ten seconds elsewhere; nothing where it is `silent`."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._is_terminal = sys.stdout.isatty()
        self.start(None)

    def say(self, text: str) -> None:
        """A line above the one that is rewritten."""
        self._show(text, end="\n")

    def start(self, total: int | None) -> None:
        """`total` pictures are to be done; None where nobody knows."""
        self._total, self._done = total, 0
        self._start = self._last = time.monotonic()

    def add(self, count: int) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= (0.2 if self._is_terminal else 10.0):
            self._last = now
            self._show(self.text(now - self._start))

    def stop(self) -> None:
        """Says how it went."""
        if self._done:
            seconds = time.monotonic() - self._start
            rate = self._done / max(seconds, 1e-9)
            self.say(f"{self._done:,} in {_duration(seconds)}, {rate:.1f} a second")

    def text(self, seconds: float) -> str:
        """What is shown after so many seconds."""
        rate = self._done / max(seconds, 1e-9)
        if self._total is None:
            return f"{self._done:,} done, {rate:.1f} a second"
        left = _duration((self._total - self._done) / max(rate, 1e-9))
        share = min(1.0, self._done / max(self._total, 1))
        bar = f"{'█' * round(20 * share):░<20} " if self._is_terminal else ""
        return f"{bar}{self._done:,} of {self._total:,}, {rate:.1f} a second, {left} left"

    def _show(self, text: str, end: str = "") -> None:
        if self._silent:
            return
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end=end, flush=True)
        else:
            print(text, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


class ReadingBar:
    """How far reading is, on standard error, as `tasks.data.progress.showing` tells of it: a bar on a terminal, a line
    every ten seconds elsewhere."""

    WIDTH = 24

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
            self._what, self._next = what, now + (0.1 if self.is_terminal else 10.0)
            percent = 100 * done // max(total, 1)
            if self.is_terminal:
                bar = "#" * (self.WIDTH * done // max(total, 1))
                drawn = "" if is_last else f"{what} [{bar:<{self.WIDTH}}] {percent} %"
                self.stream.write(f"\r\033[K{drawn}")
            else:
                self.stream.write(f"{what}: {percent} %\n")
            self.stream.flush()
