"""What reading a large data set needs: how far it is, for whoever shows it, and no collector in between."""

import contextlib
import gc
from collections.abc import Callable, Iterator

Show = Callable[[str, int, int], None]
"""What is done, how many of them are done, and of how many."""

_show: list[Show] = []


@contextlib.contextmanager
def showing(show: Show) -> Iterator[None]:
    """Calls `show` at each step of what is read inside, from whichever thread."""
    _show.append(show)
    try:
        yield
    finally:
        _show.pop()


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Python's collector of cycles waits: parsing makes millions of objects and no cycle, and looking for some among
    all of them, again and again, takes longer than the rest."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def step(what: str, done: int, total: int) -> None:
    """Tells of a step."""
    for show in _show[-1:]:
        show(what, done, total)
