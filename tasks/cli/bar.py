"""`Bar`: how many pictures are done, and how many a second."""

import sys
import time


class Bar:
    """One line that is rewritten on a terminal, a line every ten seconds elsewhere; nothing where it is `silent`."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._is_terminal = sys.stdout.isatty()
        self._interval = 0.2 if self._is_terminal else 10.0
        self._total: int | None = None
        self._done = 0
        self._start = self._last = time.monotonic()

    def say(self, text: str) -> None:
        """A line above the one that is rewritten."""
        if not self._silent:
            print(f"\r\x1b[K{text}" if self._is_terminal else text, flush=True)

    def start(self, total: int | None) -> None:
        """`total` pictures are to be done; None where nobody knows."""
        self._total, self._done = total, 0
        self._start = self._last = time.monotonic()

    def add(self, count: int) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            self._show(self.text(now - self._start))

    def stop(self) -> None:
        """Says how it went."""
        if self._done:
            text = (
                f"{self._done:,} in {_duration(time.monotonic() - self._start)}, {self._rate():.1f} a second"
            )
            self._show(text, end="\n")

    def text(self, seconds: float) -> str:
        """What is shown after so many seconds."""
        rate = self._done / max(seconds, 1e-9)
        if self._total is None:
            return f"{self._done:,} done, {rate:.1f} a second"
        left = _duration((self._total - self._done) / max(rate, 1e-9))
        share = min(1.0, self._done / max(self._total, 1))
        bar = f"{'█' * round(20 * share):░<20} " if self._is_terminal else ""
        return f"{bar}{self._done:,} of {self._total:,}, {rate:.1f} a second, {left} left"

    def _rate(self) -> float:
        return self._done / max(time.monotonic() - self._start, 1e-9)

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
